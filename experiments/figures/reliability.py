"""Whether the probabilities of a run can be believed."""

from __future__ import annotations

from typing import Any

import altair as alt

from experiments.figures.style import COLOURS, MIDDLE, Results, titled


def reliability(results: Results) -> Any | None:
    """The share of right answers over the confidence they were given with, at the end."""
    found = results.get("observed", {}).get("reliability")
    if not found:
        return None
    bins = len(found["counts"])
    rows = [
        {
            "from": 100 * i / bins,
            "to": 100 * (i + 1) / bins,
            "confidence": round(100 * confidence, 1),
            "accuracy": round(100 * accuracy, 1),
            "images": int(count),
            "nothing": 0,
        }
        for i, (count, confidence, accuracy) in enumerate(
            zip(found["counts"], found["confidence"], found["accuracy"], strict=True)
        )
        if count
    ]
    tooltip = [
        alt.Tooltip("confidence:Q", title="mean confidence (%)"),
        alt.Tooltip("accuracy:Q", title="right (%)"),
        alt.Tooltip("images:Q", title="test images"),
    ]
    percent = alt.Scale(domain=[0, 100])
    bars = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect(color=COLOURS[0], stroke=MIDDLE, strokeWidth=0.5)
        .encode(
            x=alt.X("from:Q", title="confidence in the answer (%)", scale=percent),
            x2="to:Q",
            y=alt.Y("accuracy:Q", title="right answers (%)", scale=percent),
            y2="nothing:Q",
            tooltip=tooltip,
        )
    )
    ends = [{"x": 0, "y": 0}, {"x": 100, "y": 100}]
    line = alt.Chart(alt.Data(values=ends)).mark_line(color=MIDDLE, strokeDash=[4, 3]).encode(x="x:Q", y="y:Q")
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, color=COLOURS[1], opacity=1)
        .encode(x="confidence:Q", y="accuracy:Q", size=alt.Size("images:Q", legend=None), tooltip=tooltip)
    )
    error, chance = results["observed"]["calibration_error"][-1], results["observed"].get("calibration_error_by_chance")
    text = f"calibration error {100 * error:.1f} %"
    if chance is not None:
        text += f"; {100 * chance:.1f} % if all of them held"
    return titled(alt.layer(bars, line, points), f"Confidence and accuracy ({text})", [results], 300)
