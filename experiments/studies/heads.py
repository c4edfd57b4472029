"""Compare heads on the features of one training: ``python -m experiments.studies.heads cifar100 --seeds 0 1 2``.

Every seed trains once with the linear head and keeps the features of all images at every moment
(:mod:`experiments.studies.moments`). All heads are then solved from those features, with and without following them,
beside two yardsticks: *frozen* features, and the *oracle*, statistics of all training images by the final model, which
no learner of a stream can have. A part that is finished is not done again, so that a killed study goes on.

Choose settings on training images only (``--validation 0.2``) and measure once on the test images with those chosen.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_sdlora.files import replacing
from avalanche_sdlora.heads.candidates import KINDS
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.metrics import AccuracyMatrix
from experiments.arguments import Arguments
from experiments.interruption import until_stopped
from experiments.options.commandline import Option, taken
from experiments.options.flags import in_flags
from experiments.options.run_options import run_command
from experiments.resolve import resolve
from experiments.results import write_json
from experiments.studies.moments import Moments, gather
from experiments.summary import Estimate

#: The features that statistics are gathered from: those of the untrained backbone, those of the moment, those of the
#: moment followed as they move, and those of the final model.
SOURCES = ("frozen", "none", "linear", "oracle")

OPTIONS = [
    Option("seeds", int, "Class orders and random numbers, a training for each; 0 by default.", "The study", nargs="+"),
    Option("expansion", int, "Units of the random expansion; 2000 by default.", "The study"),
]
COMMAND = run_command(
    "python -m experiments.studies.heads",
    "Compare heads on the features of one training of SD-LoRA.",
    OPTIONS,
    without=("seed", "sdlora.head", "sdlora.drift", "sdlora.expansion", "method", "baselines"),
)


def study(arguments: Arguments, seeds: Sequence[int] = (0,), expansion: int = 2000) -> list[dict[str, Any]]:
    """Train and evaluate the missing parts; write ``heads-UNITS.json`` for each seed and ``heads.md`` for all of them.

    Args:
        arguments: Of a run; ``output`` gets a folder for each seed. A recipe's head is left out.
        seeds: Each gives the class order and every random number of a training.
        expansion: Units of the random expansion.

    Returns:
        The results of each seed, of the ``linear head`` and by kind and source: the metrics of the stream in percent
        (an oracle has those after the last experience only) and the cost of the head at the last experience.
    """
    arguments = dataclasses.replace(arguments, settings={"sdlora.head": "linear", **arguments.settings})
    base = Path(str(resolve(arguments).arguments.output))
    results = []
    for seed in seeds:
        moments = gather(resolve(dataclasses.replace(arguments, seed=seed, output=str(base / f"seed{seed}"))))
        path = base / f"seed{seed}" / f"heads-{expansion}.json"
        if not path.exists():
            write_json(path, evaluate(moments, expansion))
        results.append(json.loads(path.read_text(encoding="utf-8")))
    table = markdown(results)
    with replacing(base / "heads.md") as file:
        file.write_text(table, encoding="utf-8")
    print(table)
    return results


def evaluate(moments: Moments, expansion: int) -> dict[str, Any]:
    """Solve and measure all heads on the features of one run; :func:`study` describes the result."""
    last = len(moments) - 1
    rows = [[_hits(moments, k, moments(t, "predicted", k)) for k in range(t)] for t in range(1, last + 1)]
    results: dict[str, Any] = {"linear head": _summary(moments, rows)}
    for kind in KINDS:
        results[kind] = {source: _head(moments, kind, source, expansion) for source in SOURCES}
    return results


def _head(moments: Moments, kind: str, source: str, expansion: int) -> dict[str, Any]:
    """The metrics of one head, and the seconds and bytes of learning the last experience."""
    last = len(moments) - 1
    labels = np.unique(np.concatenate([moments(0, "train_labels", k) for k in range(last)]))
    head = ClosedFormHead(moments(0, "train", 0).shape[1], kind, "linear" if source == "linear" else "none", expansion)
    seconds = 0.0
    rows: list[list[float] | None] = []
    for k in range(last):
        if head.follows:
            head.remember(_batches(moments(k, "train", k)))
        moment = {"frozen": 0, "oracle": last}.get(source, k + 1)
        targets = np.searchsorted(labels, moments(0, "train_labels", k))
        begun = time.perf_counter()
        head.learn(list(zip(_batches(moments(moment, "train", k)), _batches(targets))), len(labels))
        seconds = time.perf_counter() - begun
        if source == "oracle" and k + 1 < last:
            rows.append(None)
            continue
        features = [torch.from_numpy(moments(moment, "test", j)) for j in range(k + 1)]
        rows.append([_hits(moments, j, labels[head(x).argmax(1).numpy()]) for j, x in enumerate(features)])
    size = sum(t.numel() * t.element_size() for t in head.state_dict().values())
    return {**_summary(moments, rows), "seconds": seconds, "bytes": size}


def _hits(moments: Moments, experience: int, predicted: NDArray[Any]) -> float:
    """Percent of an experience's test images that are predicted right."""
    return 100 * float(np.mean(predicted == moments(0, "test_labels", experience)))


def _summary(moments: Moments, rows: Sequence[list[float] | None]) -> dict[str, Any]:
    """The metrics of a stream, from the percentages on the experiences so far, a row an experience."""
    samples = [len(moments(0, "test_labels", k)) for k in range(len(rows))]
    return AccuracyMatrix.from_rows(rows, samples).summary()


def _batches(array: Any) -> Sequence[Tensor]:
    return torch.from_numpy(np.ascontiguousarray(array)).split(512)


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The table of all seeds."""
    lines = [
        f"Percent after the last experience (Acc), its mean over all (AAA); mean ± error, {len(results)} seeds.",
        "*Stale*: statistics as gathered; *followed*: with drift='linear'; *oracle*: all training images by the final",
        "model. *Recovered*: the share of what staleness costs that following wins back. *Seconds* to learn the last",
        "experience from its features with drift='linear', without the passes over its images; *MB* of state.",
        "",
        "| head | Acc, frozen | stale | followed | oracle | recovered | AAA, frozen | followed | seconds | MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| linear, as trained | | {_text(r['linear head']['acc'] for r in results)} | | | | | "
        f"{_text(r['linear head']['aaa'] for r in results)} | | |",
    ]
    for kind in KINDS:
        acc = {source: [r[kind][source]["acc"] for r in results] for source in SOURCES}
        lost = np.mean(acc["oracle"]) - np.mean(acc["none"])
        won = np.mean(acc["linear"]) - np.mean(acc["none"])
        cells = [kind, *(_text(acc[source]) for source in SOURCES)]
        cells.append(f"{100 * won / lost:.0f} %" if lost >= 0.5 else "")  # a share of nearly nothing means nothing
        cells += [_text(r[kind][source]["aaa"] for r in results) for source in ("frozen", "linear")]
        cells.append(f"{np.mean([r[kind]['linear']['seconds'] for r in results]):.2f}")
        cells.append(f"{results[0][kind]['linear']['bytes'] / 1e6:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _text(values: Iterable[float]) -> str:
    estimate = Estimate.of(list(values))
    return "" if estimate is None else estimate.text()


def main() -> None:
    """The command line."""
    try:
        given = COMMAND.parse()
        own = taken(given, OPTIONS)
        study(Arguments.from_flat(given), **own)
    except (ValueError, RuntimeError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")


if __name__ == "__main__":
    until_stopped(main)
