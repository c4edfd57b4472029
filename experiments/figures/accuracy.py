"""Figures of what a run can recognise after each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments.figures.style import Results, heat_map, lines, rows_height, titled

#: What a closed-form head's statistics were gathered from, by the names in ``results.json``.
HEADS = {
    "frozen": "features of the frozen network",
    "none": "stale: features as they were at each task",
    "linear": "followed: features carried along as they moved",
    "oracle": "oracle: all images once more, final network",
}


def means(rows: Sequence[Sequence[float] | None]) -> list[tuple[int, float]]:
    """The number of tasks learned and the mean accuracy over them, where it was measured."""
    return [(i + 1, float(np.mean(row))) for i, row in enumerate(rows) if row]


def baseline_name(name: str) -> str:
    """The name of a baseline as figures and tables show it."""
    return f"{name.replace('_', ' ')}, frozen features"


def accuracy_matrix(results: Results) -> Any:
    """Accuracy on each task after each task."""
    rows = [
        {"after": i + 1, "task": j + 1, "value": value}
        for i, row in enumerate(results["accuracy_matrix"])
        for j, value in enumerate(row or [])
    ]
    n = len(results["accuracy_matrix"])
    chart = heat_map(
        rows,
        alt.X("task:O", title="test images of task", axis=alt.Axis(labelAngle=0)),
        alt.Y("after:O", title="after learning task"),
        label="accuracy (%)",
        form=".1f" if n <= 6 else ".0f",
        domain=(0, 100),
        cells=n,
        tooltip=[
            alt.Tooltip("after:O", title="after learning task"),
            alt.Tooltip("task:O", title="test images of task"),
            alt.Tooltip("value:Q", title="accuracy (%)", format=".2f"),
        ],
    )
    return titled(chart, "Accuracy on every task, after every task", [results], rows_height(n))


def accuracy_over_tasks(results: Results) -> Any:
    """The mean accuracy over the tasks learned so far, beside the training-free baselines."""
    curves = {results["method"]: results["accuracy_matrix"]}
    curves |= {baseline_name(name): found["accuracy_matrix"] for name, found in results["baselines"].items()}
    return _curves(curves, "Accuracy over the tasks learned so far", results)


def task_known(results: Results) -> Any | None:
    """Accuracy with and without the task known: what features lost, and what the comparison of tasks lost."""
    known = results.get("observed", {}).get("task_known")
    if not known:
        return None
    curves = {"all classes compete": results["accuracy_matrix"], "only classes of the image's task compete": known}
    return _curves(curves, "Accuracy with and without the task known", results)


def heads(results: Results) -> Any | None:
    """The head in closed form with statistics from frozen, stale and followed features, and an oracle's."""
    found = results.get("observed", {}).get("heads")
    if not found:
        return None
    curves = {HEADS[source]: found[source]["accuracy_matrix"] for source in HEADS if source in found}
    return _curves(curves, "What following the features wins back", results)


def _curves(curves: Mapping[str, Sequence[Any]], title: str, results: Results) -> Any:
    rows = [
        {"tasks": tasks, "accuracy": value, "name": name}
        for name, matrix in curves.items()
        for tasks, value in means(matrix)
    ]
    return titled(over_tasks(rows, list(curves)), title, [results])


def over_tasks(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """Lines of ``accuracy`` over ``tasks``, one for each name."""
    ticks = sorted({row["tasks"] for row in rows})
    return lines(
        rows,
        alt.X(
            "tasks:Q",
            title="tasks learned",
            axis=alt.Axis(format="d", values=ticks, labelOverlap=True),
            scale=alt.Scale(domain=[min(ticks), max(max(ticks), min(ticks) + 1)], nice=False),
        ),
        alt.Y("accuracy:Q", title="mean accuracy on tasks so far (%)", scale=alt.Scale(zero=False)),
        names,
        tooltip=[
            alt.Tooltip("name:N", title=" "),
            alt.Tooltip("tasks:Q", title="tasks learned"),
            alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".2f"),
        ],
    )
