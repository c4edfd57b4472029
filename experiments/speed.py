"""The command ``python -m experiments.speed``; see :mod:`experiments.studies.speed`."""

from experiments.studies.speed import main

if __name__ == "__main__":
    main()
