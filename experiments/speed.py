"""The command ``python -m experiments.speed``; see :mod:`experiments.studies.speed`."""

from experiments.interruption import until_stopped


def main() -> None:
    """The command line."""
    from experiments.studies.speed import main as measure  # with it torch, which takes its time

    measure()


if __name__ == "__main__":
    until_stopped(main)
