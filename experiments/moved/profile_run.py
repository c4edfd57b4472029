"""The former name of :mod:`experiments.studies.profile`."""

raise SystemExit("error: this command is now python -m experiments.studies.profile")
