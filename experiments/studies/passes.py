"""How often each image passes through the network in a run: ``python -m experiments.studies.passes digits``.

A whole run, whose own files go to a folder that is removed. Every forward pass is counted where the model computes, by
the callback of Avalanche inside which it happens.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avalanche.core import SupervisedPlugin
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.arguments import Arguments
from experiments.interruption import until_stopped
from experiments.options.commandline import Option, taken
from experiments.options.flags import in_flags
from experiments.options.run_options import run_command
from experiments.results import write_json
from experiments.run import run

#: What passes are made for, by the callback that begins it.
PURPOSES = {
    "begin": "training-free baselines",
    "before_training_exp": "features before a task",
    "before_training_epoch": "training steps, with a backward pass",
    "after_training_exp": "features after a task",
    "before_eval": "evaluation",
}

OPTIONS = [
    Option("experiences", int, "Only so many experiences; all by default.", "The count"),
    Option("count", str, "JSON file that gets the count.", "The count"),
]
COMMAND = run_command("python -m experiments.studies.passes", "Count the forward passes of a run.", OPTIONS)


class Passes(SupervisedPlugin):
    """Counts the images that pass through a strategy's model, by purpose; it stands before all other plugins.

    Attributes:
        images: Images by purpose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: Counter[str] = Counter()
        self._purpose = PURPOSES["begin"]

    def watch(self, strategy: Any) -> None:
        """Count from now on."""
        strategy.plugins.insert(0, self)
        computed = strategy.model._computed

        def counted(x: Tensor, *args: Any) -> Tensor:
            self.images[self._purpose] += len(x)
            return computed(x, *args)

        strategy.model._computed = counted

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """A task begins."""
        self._purpose = PURPOSES["before_training_exp"]

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """It is trained on."""
        self._purpose = PURPOSES["before_training_epoch"]

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """It has been trained on."""
        self._purpose = PURPOSES["after_training_exp"]

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """What has been learned is tested."""
        self._purpose = PURPOSES["before_eval"]


def count(arguments: Arguments, *, experiences: int | None = None) -> dict[str, int]:
    """Make a run and count its passes.

    Returns:
        The images by purpose.

    Raises:
        ValueError: As :func:`experiments.run.run`, whose other errors are raised too.
    """
    passes = Passes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = dataclasses.replace(arguments, output=str(Path(folder, "run")))
        run(arguments, experiences=experiences, watch=passes.watch, verbosity="quiet")
    return {purpose: passes.images[purpose] for purpose in PURPOSES.values()}


def table_of(found: Mapping[str, int]) -> Table:
    """The passes by purpose, as a share of all of them."""
    table = Table(title="Images through the network")
    for column in ("", "passes", "share of all"):
        table.add_column(column, justify="right" if column else "left")
    total = sum(found.values())
    for purpose, images in found.items():
        table.add_row(purpose, f"{images:,}", f"{100 * images / total:.1f} %")
    table.add_row("all", f"{total:,}", "")
    return table


def main() -> None:
    """The command line."""
    try:
        given = COMMAND.parse()
        own = taken(given, OPTIONS)
        found = count(Arguments.from_flat(given), experiences=own.get("experiences"))
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")
    Console().print(table_of(found))
    if "count" in own:
        write_json(own["count"], found)


if __name__ == "__main__":
    until_stopped(main)
