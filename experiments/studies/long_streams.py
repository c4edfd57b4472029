"""Whether a task costs more the more tasks came before it: ``python -m experiments.studies.long_streams``.

The micro backbone learns a stream of random images, a few of each class, with a ``rank_budget`` that bounds what is
kept of all tasks. Time is the process's own on one thread, so that other programs do not count. Evaluation, which tests
as many images as it is told to, is left out: here it tests those of the present task alone.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from rich.console import Console
from rich.table import Table
from torch.utils.data import TensorDataset

from avalanche_sdlora import SDLoRAConfig, SDLoRAStrategy, create_backbone
from experiments.interruption import until_stopped
from experiments.options.commandline import CommandLine
from experiments.options.run_options import options_of
from experiments.results import environment, write_json

#: The parts of a task's time, by the callback at which each ends.
PARTS = {"before_training_epoch": "beginning", "after_training_epoch": "training steps", "after_training": "end"}


@dataclass(frozen=True)
class Arguments:
    """The measurement.

    Args:
        tasks: Number of tasks.
        classes: Number of classes, shared out among them.
        images: Training images of each class.
        rank: Rank of each direction.
        rank_budget: The frozen directions of a projection never exceed this total rank.
        expansion: Units of the head's random expansion.
        image_size: Side of the images in pixels.
        output: JSON file that gets every figure.
    """

    tasks: int = 100
    classes: int = 1000
    images: int = 8
    rank: int = 4
    rank_budget: int = 16
    expansion: int = 200
    image_size: int = 16
    output: str | None = None


class Laps(SupervisedPlugin):
    """CPU seconds of the parts of each task; it stands behind all other plugins.

    Attributes:
        seconds: One dict for each task.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[dict[str, float]] = []
        self._last = 0.0

    def begin(self) -> None:
        """A task begins."""
        self.seconds.append({})
        self._last = time.process_time()

    def lap(self, part: str) -> None:
        """Count the time since the last lap."""
        now = time.process_time()
        self.seconds[-1][part] = self.seconds[-1].get(part, 0.0) + now - self._last
        self._last = now

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """The task has begun: directions are frozen, features remembered."""
        self.lap(PARTS["before_training_epoch"])

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """It has been trained on."""
        self.lap(PARTS["after_training_epoch"])


def measure(arguments: Arguments) -> dict[str, Any]:
    """Learn the stream.

    Returns:
        ``seconds``: CPU seconds of each task by part; ``slope``: by part and of the whole, the change over 100 tasks
        of the line through the tasks' times, by least squares from the second task on, as a share of their median;
        ``parameters``: those kept after each task.

    Raises:
        ValueError: The classes cannot be shared out among the tasks.
    """
    if arguments.classes % arguments.tasks or arguments.tasks < 3:
        raise ValueError(f"tasks={arguments.tasks}: expected a divisor of classes={arguments.classes}, at least 3")
    torch.manual_seed(0)
    size = arguments.image_size
    labels = torch.arange(arguments.classes).repeat_interleave(arguments.images)
    patterns = torch.randn(arguments.classes, 3, size, size)
    data = TensorDataset(patterns[labels] + torch.randn(len(labels), 3, size, size), labels)
    data.targets = labels.tolist()  # type: ignore[attr-defined]
    stream = nc_benchmark(data, data, arguments.tasks, task_labels=False, shuffle=False).train_stream
    config = SDLoRAConfig(
        rank=arguments.rank, rank_budget=arguments.rank_budget, expansion=arguments.expansion, first_epochs=1
    )
    laps = Laps()
    backbone = create_backbone("vit_micro_patch4_32.formula", img_size=size)
    strategy = SDLoRAStrategy(model=backbone, config=config, train_mb_size=32, eval_mb_size=128, evaluator=None)
    strategy.plugins.append(laps)
    kept = []
    for experience in stream:
        laps.begin()
        strategy.train(experience, eval_streams=[])
        laps.lap(PARTS["after_training"])
        kept.append(strategy.model.parameter_report()["kept"])
    series = {part: [own.get(part, 0.0) for own in laps.seconds] for part in PARTS.values()}
    series["whole"] = [sum(own.values()) for own in laps.seconds]
    return {
        "seconds": series,
        "median": {part: statistics.median(values[1:]) for part, values in series.items()},
        "slope": {part: slope(values[1:]) for part, values in series.items()},
        "parameters": kept,
        "arguments": dataclasses.asdict(arguments),
        "environment": environment(),
    }


def slope(values: list[float]) -> float:
    """The change over 100 places of the line through ``values`` by least squares, as a share of their median."""
    return 100 * float(np.polyfit(np.arange(len(values)), values, 1)[0]) / statistics.median(values)


def main() -> None:
    """The command line."""
    command = CommandLine(
        "python -m experiments.studies.long_streams",
        "Measure whether a task costs more the more tasks came before it.",
        options_of(Arguments, "Options"),
    )
    try:
        arguments = Arguments(**command.parse())
        found = measure(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")
    table = Table(title=f"{arguments.classes} classes in {arguments.tasks} tasks, rank_budget {arguments.rank_budget}")
    for column in ("CPU seconds of a task", "median", "first ten", "last ten", "change over 100 tasks"):
        table.add_column(column, justify="left" if column.startswith("CPU") else "right")
    for part, values in found["seconds"].items():
        ends = [f"{statistics.median(own):.3f}" for own in (values[1:11], values[-10:])]
        table.add_row(part, f"{found['median'][part]:.3f}", *ends, f"{100 * found['slope'][part]:+.1f} %")
    Console().print(table)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    until_stopped(main)
