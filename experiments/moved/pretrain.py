"""The former name of :mod:`experiments.studies.pretrain`."""

raise SystemExit("error: this command is now python -m experiments.studies.pretrain")
