"""The former name of :mod:`experiments.studies.heads`."""

raise SystemExit("error: this command is now python -m experiments.studies.heads")
