"""Figures that compare methods over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments.figures.accuracy import over_tasks
from experiments.figures.style import COLOURS, MIDDLE, Results, titled
from experiments.summary import Estimate, Row


def accuracy_bands(rows: Sequence[Row], runs: Sequence[Results]) -> Any:
    """The mean accuracy over the tasks so far: a line for each method, and a band for its standard error."""
    data = []
    for row in rows:
        for i, column in enumerate(zip(*row.curves)):
            estimate = Estimate.of([float(value) for value in column])
            if estimate is None or not np.isfinite(estimate.mean):
                continue
            error = estimate.error or 0.0
            data.append(
                {"tasks": i + 1, "accuracy": estimate.mean, "name": row.method}
                | {"low": estimate.mean - error, "high": estimate.mean + error}
            )
    return titled(over_tasks(data, [row.method for row in rows if row.curves]), "Accuracy over the tasks", runs)


def front_of_parameters(rows: Sequence[Row], runs: Sequence[Results]) -> Any | None:
    """Accuracy over the parameters that are kept; nothing is better in both than what is on the line."""
    return front(rows, runs, "parameters", "parameters kept beyond the frozen network (log)")


def front_of_seconds(rows: Sequence[Row], runs: Sequence[Results]) -> Any | None:
    """Accuracy over the seconds of training and evaluation; nothing is better in both than what is on the line."""
    return front(rows, runs, "seconds", "training and evaluation (seconds, log)")


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points ``(cost, gain)`` for which no other has at most the cost and at least the gain."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, kept = float("-inf"), []
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            kept.append(i)
    return kept


def front(rows: Sequence[Row], runs: Sequence[Results], measure: str, label: str) -> Any | None:
    """Accuracy over a cost of the rows that were trained here; None of fewer than two.

    Args:
        rows: Their ``values`` have ``acc`` and the cost.
        runs: The runs behind them, which the figure names.
        measure: The name of the cost in ``values``.
        label: What the axis says of it.
    """
    data = []
    for row in rows:
        cost, acc = row.values.get(measure), row.values.get("acc")
        if row.kind == "trained" and cost is not None and acc is not None and cost.mean > 0:
            error = acc.error or 0.0
            data.append(
                {"name": row.method, "cost": cost.mean, "acc": acc.mean}
                | {"low": acc.mean - error, "high": acc.mean + error, "told": acc.text()}
            )
    if len(data) < 2:
        return None
    points = [(float(d["cost"]), float(d["acc"])) for d in data]  # type: ignore[arg-type]
    front = [data[i] for i in pareto(points)]
    x = alt.X(
        "cost:Q",
        title=label,
        scale=alt.Scale(type="log", nice=True, padding=12),
        axis=alt.Axis(format="~s", tickCount=4, labelOverlap=True),
    )
    y = alt.Y("acc:Q", title="Acc at the end (%)", scale=alt.Scale(zero=False, padding=8))
    names = [str(d["name"]) for d in data]
    colour = alt.Color(
        "name:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))]),
        legend=alt.Legend(orient="bottom", columns=1 if max(map(len, names)) > 22 else 2, labelLimit=330),
    )
    shape = alt.Shape("name:N", sort=None, scale=alt.Scale(domain=names), title=None)
    tooltip = [
        alt.Tooltip("name:N", title="method"),
        alt.Tooltip("told:N", title="Acc (%)"),
        alt.Tooltip("cost:Q", title=measure, format=",.0f"),
    ]
    base = alt.Chart(alt.Data(values=data)).encode(x=x)
    chart = alt.layer(
        alt.Chart(alt.Data(values=front))
        .mark_line(interpolate="step-after", color=MIDDLE, strokeDash=[3, 3])
        .encode(x=x, y=y),
        base.mark_rule().encode(y=alt.Y("low:Q"), y2="high:Q", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(y=y, color=colour, shape=shape, tooltip=tooltip),
    )
    return titled(chart, f"Accuracy for its {measure}; the line is the Pareto front", runs)
