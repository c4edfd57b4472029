"""Figures of what a run takes for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import altair as alt

from experiments.figures.style import MIDDLE, Results, heat_map, rows_height, titled


def task_of_class(results: Results) -> dict[int, int]:
    """The task, from 1, that brought each class; empty where tasks bring the same classes."""
    tasks: dict[int, int] = {}
    for experience, true, *_ in results.get("observed", {}).get("confusion", []):
        if tasks.setdefault(true, experience + 1) != experience + 1:
            return {}
    return tasks


def confusion_of_tasks(results: Results) -> Any | None:
    """Which task's classes the images of each task are taken for, at the end."""
    tasks = task_of_class(results)
    counts: Counter[tuple[int, int]] = Counter()
    for experience, _, predicted, count in results.get("observed", {}).get("confusion", []):
        if predicted in tasks:
            counts[experience + 1, tasks[predicted]] += count
    n = len(set(tasks.values()))
    if n < 2:
        return None
    whole: Counter[int] = Counter()
    for (true, _), count in counts.items():
        whole[true] += count
    rows = [
        {"true": i, "predicted": j, "value": 100 * counts[i, j] / whole[i], "images": counts[i, j]}
        for i in sorted(whole)
        for j in sorted(set(tasks.values()))
    ]
    chart = heat_map(
        rows,
        alt.X("predicted:O", title="taken for a class of task", axis=alt.Axis(labelAngle=0)),
        alt.Y("true:O", title="images of task"),
        label="share of the task's test images (%)",
        form=".0f",
        domain=(0, 100),
        cells=n,
        tooltip=[
            alt.Tooltip("true:O", title="images of task"),
            alt.Tooltip("predicted:O", title="taken for a class of task"),
            alt.Tooltip("value:Q", title="share (%)", format=".1f"),
            alt.Tooltip("images:Q", title="images"),
        ],
    )
    return titled(chart, "Which task's classes images are taken for", [results], rows_height(n))


def confusion_of_classes(results: Results) -> Any | None:
    """Which class the images of each class are taken for, at the end, in the order of their arrival."""
    tasks, names = task_of_class(results), class_names(results)
    records = results.get("observed", {}).get("confusion", [])
    if not records or len(names) > 400:
        return None
    order = sorted(names, key=lambda label: (tasks.get(label, 0), label))
    place = {label: i for i, label in enumerate(order)}
    whole: Counter[int] = Counter()
    cells: Counter[tuple[int, int]] = Counter()
    for _, true, predicted, count in records:
        whole[true] += count
        cells[true, predicted] += count
    rows = [
        {"x": place[p], "y": place[t], "true": names[t], "predicted": names[p], "value": round(100 * c / whole[t], 1)}
        for (t, p), c in cells.items()
    ]
    n = len(order)
    shown = {"labelExpr": f"{[names[label] for label in order]!r}[datum.value]"} if n <= 12 else {"labels": False}
    axis = alt.Axis(ticks=False, labelLimit=90, labelAngle=0, labelOverlap=True, **shown)
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect()
        .encode(
            x=alt.X("x:O", title="predicted class, by task", axis=axis, scale=alt.Scale(domain=list(range(n)))),
            y=alt.Y("y:O", title="true class, by task", axis=axis, scale=alt.Scale(domain=list(range(n)))),
            color=alt.Color(
                "value:Q",
                title="share of the class's test images (%)",
                scale=alt.Scale(scheme="viridis", domain=[0, 100]),
                legend=alt.Legend(orient="bottom", gradientLength=180, titleLimit=320),
            ),
            tooltip=[
                alt.Tooltip("true:N", title="true class"),
                alt.Tooltip("predicted:N", title="predicted class"),
                alt.Tooltip("value:Q", title="share (%)"),
            ],
        )
    )
    boundaries = [i for i in range(1, n) if tasks and tasks[order[i]] != tasks[order[i - 1]]]
    if not boundaries:
        return titled(alt.layer(chart), "Which class is taken for which", [results], 340)
    rule = alt.Chart(alt.Data(values=[{"at": b} for b in boundaries])).mark_rule(color=MIDDLE, strokeWidth=0.6)
    rules = (rule.encode(x=alt.X("at:O", bandPosition=0)), rule.encode(y=alt.Y("at:O", bandPosition=0)))
    return titled(alt.layer(chart, *rules), "Which class is taken for which", [results], 340)


def class_names(results: Results) -> Mapping[int, str]:
    """The names of the classes seen, by label."""
    given = results.get("class_names") or []
    seen = {label for record in results.get("observed", {}).get("confusion", []) for label in record[1:3]}
    return {label: str(given[label]) if label < len(given) else f"class {label}" for label in sorted(seen)}
