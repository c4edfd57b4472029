"""The findings of a comparison: means, standard errors, and differences paired by seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments.recipes import published

Results = Mapping[str, Any]
MEASURES = {"acc": "Acc", "aaa": "AAA", "forgetting": "forgetting"}
COMPARED = ("acc", "aaa")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, which one value alone does not have."""

    mean: float
    error: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate | None:
        """Mean and standard error ``s / sqrt(n)``, with ``s`` the sample's standard deviation; None of nothing."""
        if not values:
            return None
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(float(np.mean(values)), error)

    def text(self, digits: int = 1, *, sign: bool = False) -> str:
        """The mean, and the error where there is one, as a table shows them."""
        mean = f"{self.mean:{'+' if sign else ''},.{digits}f}"
        return mean if self.error is None else f"{mean} ± {self.error:,.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        stream: Name of the data set.
        method: Name of the method.
        kind: Whether the method was trained here, is a baseline measured here, or has published numbers.
        seeds: Seeds of the runs.
        values: ``acc``, ``aaa``, ``forgetting``, ``gap``, ``parameters`` and ``seconds``, as far as they are known;
            ``gap`` is the share of the way from sequential to joint LoRA, in percent of Acc.
        differences: Differences of ``acc`` and ``aaa`` to the stream's first method, over the seeds that both have.
        curves: Accuracy on all classes seen, by seed and task; NaN where it was not measured.
        images: A line that says which images these are, if it is known.
    """

    stream: str
    method: str
    kind: Literal["trained", "baseline", "published"]
    seeds: Sequence[int]
    values: Mapping[str, Estimate | None]
    differences: Mapping[str, Estimate | None] = dataclasses.field(default_factory=dict)
    curves: Sequence[Sequence[float]] = ()
    images: str = ""


def summarize(found: Mapping[str, Mapping[str, Mapping[int, Results]]]) -> list[Row]:
    """One row for each method, then for each baseline and each published result, stream by stream."""
    rows = []
    for stream, methods in found.items():
        first = next(iter(methods.values()))
        bounds = _bounds(methods)
        baselines: dict[str, dict[int, Results]] = {}
        for cells in methods.values():
            for seed, results in cells.items():
                for name, baseline in results["baselines"].items():
                    baselines.setdefault(name, {}).setdefault(seed, baseline)
        rows += [_row(stream, name, "trained", cells, first, bounds) for name, cells in methods.items()]
        for name, cells in baselines.items():
            rows.append(_row(stream, name.replace("_", " "), "baseline", cells, first, bounds))
        tasks = len(next(iter(first.values()))["accuracy_matrix"])
        for name, result in published(stream, tasks).items():
            values = {key: Estimate(value) for key, value in result.items()}
            rows.append(Row(stream, f"published: {name}", "published", [], values))
    return rows


def _bounds(methods: Mapping[str, Mapping[int, Results]]) -> dict[int, tuple[float, float]]:
    """Acc of sequential and of joint LoRA by seed; between them lies what learning one task after another loses."""
    acc: dict[str, dict[int, float]] = {"lora": {}, "joint": {}}
    for cells in methods.values():
        for seed, results in cells.items():
            acc.get(results["arguments"]["method"], {}).setdefault(seed, results["acc"])
    return {seed: (low, acc["joint"][seed]) for seed, low in acc["lora"].items() if low < acc["joint"].get(seed, low)}


def _row(
    stream: str,
    method: str,
    kind: Literal["trained", "baseline"],
    cells: Mapping[int, Results],
    first: Mapping[int, Results],
    bounds: Mapping[int, tuple[float, float]],
) -> Row:
    shared = [seed for seed in cells if seed in first] if cells is not first else []
    between = [100 * (cells[k]["acc"] - low) / (high - low) for k, (low, high) in bounds.items() if k in cells]
    return Row(
        stream,
        method,
        kind,
        sorted(cells),
        # A method that learns all tasks at once has no measure of the way there.
        {key: Estimate.of([results[key] for results in cells.values() if key in results]) for key in MEASURES}
        | {
            "gap": Estimate.of(between),
            "parameters": Estimate.of([p for r in cells.values() if (p := _parameters(r)) is not None]),
            "seconds": Estimate.of(
                [r["seconds"]["train"] + r["seconds"]["evaluate"] for r in cells.values() if "seconds" in r]
            ),
        },
        {
            key: Estimate.of([cells[k][key] - first[k][key] for k in shared if key in cells[k] and key in first[k]])
            for key in COMPARED
        },
        [
            [math.nan if row is None else float(np.mean(row)) for row in results["accuracy_matrix"]]
            for results in cells.values()
        ],
        next((results["caption"] for results in cells.values() if "caption" in results), ""),
    )


def _parameters(results: Results) -> int | None:
    return results["parameters"][-1]["kept"] if "parameters" in results else results.get("trainable_parameters")
