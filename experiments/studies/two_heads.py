"""Methods of a grid with two heads each: ``python -m experiments.studies.two_heads cifar100 --output FOLDER``.

A method whose published head is trained predicts with that head, and beside it with one in closed form, which learns
from the features of every task when the task has been trained: ``random_ridge``, which reads layers and follows the
features as the default's head does. It needs no images held out to choose anything, and nothing is taken back, so that
the method trains as it would alone. Other methods, the default among them, keep their one head. A finished cell is not
run again, one that was interrupted begins anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_sdlora.files import replacing
from avalanche_sdlora.metrics import AccuracyMatrix
from avalanche_sdlora.persistence.checkpoint import CHECKPOINT
from experiments.compare.__main__ import OWN
from experiments.compare.folder import cell_folder, collect, remember_order
from experiments.compare.grid import Cell, plan, read_grid
from experiments.figures.comparison import front
from experiments.figures.pictures import write_svg
from experiments.interruption import until_stopped
from experiments.options.commandline import Option, taken
from experiments.options.flags import in_flags
from experiments.options.run_options import run_command
from experiments.results import write_json
from experiments.summary import Estimate, Row
from experiments.whole_run import make_run

TITLE = "The study"
OPTIONS = [
    Option("streams", str, "Data sets, as for experiments.run.", TITLE, positional=True, nargs="*"),
    Option("grid", str, "A file of experiments/grids, or any .toml; else relatives.", TITLE),
    Option("only", str, "These methods of it.", TITLE, nargs="+"),
    Option("seeds", int, "Class orders and random numbers; 0 by default.", TITLE, nargs="+"),
    Option("output", str, "The folder of the study.", TITLE),
]
COMMAND = run_command(
    "python -m experiments.studies.two_heads",
    "Measure methods with the head that they train and with one in closed form.",
    OPTIONS,
    without=(*OWN, "figures"),
)
FILE = "two_heads.json"

#: The settings of the head in closed form.
CLOSED: dict[str, Any] = {"head": "random_ridge", "expansion": 2000, "held_out": None}


class Beside(SupervisedPlugin):
    """What a run measures beside its accuracies: the linear head's hits, and the CPU time of training.

    Attributes:
        hits: For each evaluation of the stream so far, the linear head's right ones of each experience.
        images: How many images each experience has then.
        cpu: Seconds of the process in ``strategy.train``, of all its threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hits: list[list[int]] = []
        self.images: list[list[int]] = []
        self.cpu = 0.0
        self._begun = 0.0
        self._features: Tensor | None = None

    def watch(self, strategy: Any) -> None:
        """Joins a strategy, and sees the features that its head in closed form is given."""
        strategy.plugins.append(self)
        head = strategy.model.closed_form
        if head is not None:
            head.register_forward_pre_hook(self._see)

    def _see(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._begun = time.process_time()

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.cpu += time.process_time() - self._begun

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Begins a row."""
        self.hits.append([])
        self.images.append([])

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begins an entry of it."""
        self.hits[-1].append(0)
        self.images[-1].append(0)

    @torch.no_grad()
    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Counts a batch."""
        logits = strategy.mb_output
        if self._features is not None:
            head = strategy.model.head
            logits = head(self._features[:, : head.in_features])  # the features come first in what is read
        self.hits[-1][-1] += int((logits.argmax(1) == strategy.mb_y).sum())
        self.images[-1][-1] += len(strategy.mb_y)
        self._features = None

    def linear(self) -> dict[str, float]:
        """The metrics of the stream with the linear head, percent."""
        rows = [[100 * h / n for h, n in zip(*row)] for row in zip(self.hits, self.images)]
        return AccuracyMatrix.from_rows(rows, self.images[-1]).summary()


def measure(cell: Cell) -> dict[str, Any]:
    """One cell, from its file or run now.

    Returns:
        ``linear`` and ``closed``: the metrics of the stream with either head, None for one that the method does not
        have; ``trained``, parameters in the first task; ``bytes`` of all float32 numbers kept at the end beyond the
        frozen backbone, a head in closed form left out; ``cpu``: seconds of training, that head included.
    """
    path = cell.folder / FILE
    if not path.exists():
        (cell.folder / CHECKPOINT).unlink(missing_ok=True)  # seconds of an interrupted run are not known
        resolved, beside = cell.resolved, Beside()
        trains_head = resolved.config.head == "linear"
        if trains_head and "head" in (resolved.method.accepts or ("head",)):
            resolved = dataclasses.replace(resolved, config=dataclasses.replace(resolved.config, **CLOSED))
        results = make_run(resolved, watch=beside.watch, verbosity="quiet")
        own = {key: results[key] for key in ("acc", "aaa", "forgetting")}
        linear = beside.linear()
        found = {
            "linear": {key: linear[key] for key in own} if trains_head else None,
            "closed": None if resolved.config.head == "linear" else own,
            "trained": results["parameters"][0]["trained"],
            "bytes": 4 * results["parameters"][-1]["kept"],
            "cpu": beside.cpu,
        }
        write_json(path, found)
    return json.loads(path.read_text(encoding="utf-8"))


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of a stream, from the cells of each method."""
    lines = [
        "| method | seeds | Acc, linear head | AAA | Acc, head in closed form | AAA | trained | MB | CPU s |",
        "|---|" + "---:|" * 8,
    ]
    for method, cells in found.items():
        texts = [
            _text([c[head][key] for c in cells if c[head]]) for head in ("linear", "closed") for key in ("acc", "aaa")
        ]
        trained, size, cpu = (sum(c[key] for c in cells) / len(cells) for key in ("trained", "bytes", "cpu"))
        texts += [f"{trained:,.0f}", f"{size / 1e6:.2f}", f"{cpu:.0f}"]
        lines.append(f"| {method} | {len(cells)} | {' | '.join(texts)} |")
    return "\n".join([*lines, ""])


def _text(values: Sequence[float]) -> str:
    estimate = Estimate.of(values)
    return "" if estimate is None else estimate.text()


def _row(stream: str, method: str, cells: Sequence[Mapping[str, Any]]) -> Row:
    best = [max(c[head]["acc"] for head in ("linear", "closed") if c[head]) for c in cells]
    values = {"acc": Estimate.of(best), "seconds": Estimate.of([c["cpu"] for c in cells])}
    return Row(stream, method, "trained", range(len(cells)), values)


def study(cells: Sequence[Cell], output: str | Path) -> None:
    """Measure the cells that are missing, then write the table and figures of all cells that the folder holds."""
    remember_order(output, [cell.stream for cell in cells], [cell.method for cell in cells])
    for cell in cells:
        print(f"{cell}: {measure(cell)}", flush=True)
        write(output)


def write(output: str | Path) -> None:
    """Write ``two_heads.md``, and ``STREAM.svg`` with the accuracy of each method by its better head and CPU time."""
    text = ""
    for stream, methods in collect(output).items():
        found = {
            method: [
                json.loads((cell_folder(output, stream, method, seed) / FILE).read_text(encoding="utf-8"))
                for seed in sorted(seeds)
            ]
            for method, seeds in methods.items()
        }
        text += f"**{stream}**\n\n{table(found)}\n"
        rows = [_row(stream, method, done) for method, done in found.items()]
        runs = [results for seeds in methods.values() for results in seeds.values()]
        chart = front(rows, runs, "seconds", "CPU time of training (seconds, log)")
        if chart is not None:
            write_svg(Path(output, f"{stream}.svg"), chart.to_dict())
    with replacing(Path(output, "two_heads.md")) as path:
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """The command line."""
    try:
        given = COMMAND.parse()
        own = taken(given, OPTIONS)
        if "streams" not in own or "output" not in own:
            raise ValueError("expected streams and --output FOLDER (see --help)")
        methods = read_grid(own.get("grid", "relatives"))
        chosen = {name: methods[name] for name in own.get("only", methods)}
        given |= {"figures": "none", "baselines": False}
        study(plan(own["streams"], chosen, own.get("seeds", [0]), own["output"], given), own["output"])
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")


if __name__ == "__main__":
    until_stopped(main)
