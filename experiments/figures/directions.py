"""The figures of Wu et al. (ICLR 2025, arXiv 2501.13198) that show what SD-LoRA's directions do, for any run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments.figures.style import Results, heat_map, lines, rows_height, titled


def sizes(results: Results) -> Any | None:
    """How large the contribution of each direction is after each task, as a Frobenius norm."""
    rows = [
        {"after": i + 1, "direction": k + 1, "value": size}
        for i, row in enumerate(_observed(results, "direction_sizes") or [])
        for k, size in enumerate(row)
    ]
    if not rows:
        return None
    n = max(row["direction"] for row in rows)
    largest = max(row["value"] for row in rows)
    # Small sizes as thousandths: three digits must fit into a cell.
    unit, told = (1000, "thousandths") if largest < 1 else (1, "no unit")
    rows = [{**row, "value": unit * row["value"]} for row in rows]
    chart = heat_map(
        rows,
        alt.X("direction:O", title="direction learned at task", axis=alt.Axis(labelAngle=0)),
        alt.Y("after:O", title="after learning task"),
        label=f"size of its contribution ({told})",
        form=".0f" if unit > 1 else ".1f",
        cells=n,
        tooltip=[
            alt.Tooltip("direction:O", title="direction learned at task"),
            alt.Tooltip("after:O", title="after learning task"),
            alt.Tooltip("value:Q", title=f"size ({told})", format=".4f"),
        ],
    )
    return titled(chart, "Size of each direction after each task", [results], rows_height(n))


def residuals(results: Results) -> Any | None:
    """The residual of the direction that trains on the frozen ones, over the iterations, by layer."""
    found: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    records = _observed(results, "residuals") or []
    layers = list(dict.fromkeys(layer for _, _, layer, _ in records))
    experiences = len({experience for experience, *_ in records})
    for _, iteration, layer, value in records:
        found[layer, iteration].append(value)
    rows = [
        {"layer": short_name(layer), "depth": layers.index(layer) + 1, "iteration": iteration, "value": np.mean(values)}
        for (layer, iteration), values in found.items()
        if len(values) == experiences  # the last iteration, where tasks differ in length, is not comparable
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=25), strokeWidth=1.5)
        .encode(
            x=alt.X(
                "iteration:Q",
                title="training iterations of the task (log)",
                scale=alt.Scale(type="log", base=2),
                axis=alt.Axis(values=sorted({iteration for _, iteration in found}), format="d"),
            ),
            y=alt.Y("value:Q", title="residual (0 explained, 1 new)", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "depth:Q",
                title="depth of the layer (1 is nearest the image)",
                scale=alt.Scale(scheme="viridis"),
                legend=alt.Legend(orient="bottom", gradientLength=180, tickMinStep=1, format="d", titleLimit=320),
            ),
            detail="layer:N",
            tooltip=[
                alt.Tooltip("layer:N", title="layer"),
                alt.Tooltip("iteration:Q", title="iteration"),
                alt.Tooltip("value:Q", title="residual", format=".4f"),
            ],
        )
    )
    return titled(chart, "How new a direction is, while it trains", [results])


def similarities(results: Results) -> Any | None:
    """The similarity of the directions of two tasks, of all layers or of one that the reader chooses."""
    by_layer: Mapping[str, Sequence[Sequence[float]]] = _observed(results, "similarities") or {}
    if not by_layer or len(next(iter(by_layer.values()))) < 2:
        return None
    everything = "all layers (mean)"
    tables = {everything: np.mean([np.array(table) for table in by_layer.values()], axis=0)}
    tables |= {short_name(layer): np.array(table) for layer, table in by_layer.items()}
    n = len(tables[everything])
    rows = [
        {"layer": layer, "one": i + 1, "other": j + 1, "value": round(float(table[i, j]), 4)}
        for layer, table in tables.items()
        for i in range(n)
        for j in range(i)
    ]
    chosen = alt.param("layer", value=everything, bind=alt.binding_select(options=list(tables), name="layer "))
    chart = heat_map(
        rows,
        alt.X("other:O", title="direction of task", axis=alt.Axis(labelAngle=0)),
        alt.Y("one:O", title="direction of task"),
        label="similarity |cos| (0 none, 1 the same)",
        form=".2f",
        cells=n,
        tooltip=[
            alt.Tooltip("one:O", title="direction of task"),
            alt.Tooltip("other:O", title="and of task"),
            alt.Tooltip("layer:N", title="layer"),
            alt.Tooltip("value:Q", title="similarity", format=".4f"),
        ],
    )
    chart = chart.transform_filter("datum.layer === layer").add_params(chosen)
    return titled(chart, "Similarity of the directions of two tasks", [results], rows_height(n))


def distances(results: Results) -> Any | None:
    """How far the solutions of the tasks are from the pre-trained weights, and from each other."""
    table = _observed(results, "distances") or []
    names = ["start", *(str(i + 1) for i in range(len(table)))]
    rows = [
        {"one": names[i + 1], "other": names[j], "value": 100 * value}
        for i, row in enumerate(table)
        for j, value in enumerate(row)
        if value is not None
    ]
    if not rows:
        return None
    n = len(names)
    chart = heat_map(
        rows,
        alt.X("other:N", title="from the solution after task", sort=names, axis=alt.Axis(labelAngle=0)),
        alt.Y("one:N", title="to the solution after task", sort=names),
        label="distance (% of the pre-trained weights' norm)",
        form=".1f" if max(row["value"] for row in rows) >= 1 else ".2f",
        domain=(0.0, max(row["value"] for row in rows)),
        cells=n,
        tooltip=[
            alt.Tooltip("other:N", title="from"),
            alt.Tooltip("one:N", title="to"),
            alt.Tooltip("value:Q", title="distance (%)", format=".3f"),
        ],
    )
    return titled(chart, "Distance of the tasks' solutions", [results], rows_height(n))


def path(results: Results) -> Any | None:
    """Accuracy on the first two tasks along the straight line from the first task's solution to the second's."""
    found = _observed(results, "path")
    if not found:
        return None
    names = [f"test images of task {j + 1}" for j in range(len(found["accuracy"][0]))]
    rows = [
        {"step": step, "accuracy": value, "name": name}
        for step, values in zip(found["steps"], found["accuracy"])
        for name, value in zip(names, values)
    ]
    chart = lines(
        rows,
        alt.X("step:Q", title="0: solution after task 1 … 1: solution after task 2", axis=alt.Axis(titleLimit=320)),
        alt.Y("accuracy:Q", title="accuracy, task known (%)", scale=alt.Scale(zero=False)),
        names,
        tooltip=[
            alt.Tooltip("name:N", title=" "),
            alt.Tooltip("step:Q", title="place on the line", format=".2f"),
            alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".2f"),
        ],
    )
    return titled(chart, "On the straight line between two solutions", [results])


def short_name(layer: str) -> str:
    """A layer's name as figures show it: ``block 3`` for ``blocks.3.attn.qkv``, other names as they are."""
    match = re.fullmatch(r"(?:\w+\.)*(?:blocks|layers?)\.(\d+)\.attn\.(?:qkv|\w+)", layer)
    return f"block {match[1]}" if match else layer


def _observed(results: Results, name: str) -> Any:
    return results.get("observed", {}).get(name)
