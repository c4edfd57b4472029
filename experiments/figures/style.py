"""How every figure looks, and where it says it is from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from experiments.arguments import dataset_title

Results = Mapping[str, Any]

#: The colours of Okabe and Ito (Color Universal Design, 2008) that are told apart by colour-blind readers, and show on
#: white and on black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 1], [1, 3], [10, 4])
SEQUENTIAL = "viridis"
MIDDLE = "#808080"  # lines that belong to no group: readable on white and on black

_WIDTH, _LINE = 520, 58  # pixels of a figure in a file, characters of a line below its title


def provenance(runs: Sequence[Results]) -> list[str]:
    """Data set, images, backbone, seeds, version and commit of runs, a text for each."""
    return [
        _each(f"{data_name(r)}, {len(r['accuracy_matrix'])} tasks" for r in runs),
        *([_each(r["caption"] for r in runs if "caption" in r)] if any("caption" in r for r in runs) else []),
        _each(_backbone(r) for r in runs),
        ("seed " if len({r["seed"] for r in runs}) == 1 else "seeds ") + _each(str(r["seed"]) for r in runs),
        "avalanche-sdlora " + _each(_version(r) for r in runs),
    ]


def data_name(results: Results) -> str:
    """The data set as a reader knows it."""
    return dataset_title(results["arguments"]["dataset"])


def _backbone(results: Results) -> str:
    arguments = results["arguments"]
    size = results.get("inputs", {}).get("size") or arguments.get("image_size")
    return f"{arguments['backbone']}, {size} px"


def _version(results: Results) -> str:
    environment = results["environment"]
    commit = environment.get("commit")
    return f"{environment['versions'].get('avalanche-sdlora')}" + (f", commit {commit}" if commit else "")


def _each(texts: Iterable[str], most: int = 4) -> str:
    different = list(dict.fromkeys(texts))
    return ", ".join(different[:most]) + (f" and {len(different) - most} more" if len(different) > most else "")


def _lines(parts: Sequence[str]) -> list[str]:
    """Parts joined to lines that fit a narrow figure."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= _LINE:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return [line for joined in lines for line in textwrap.wrap(joined, _LINE)]


def titled(chart: Any, title: str, runs: Sequence[Results], height: int = 260) -> Any:
    """A chart with its title and where it is from, as wide as the page that shows it."""
    told = alt.TitleParams(
        textwrap.wrap(title, 52), subtitle=_lines(provenance(runs)), anchor="start", frame="bounds", offset=10
    )
    # Only the width follows the page.
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    sized = chart.properties(title=told, width="container", height=height, autosize=fit)
    return sized.configure_view(strokeWidth=0)


def rows_height(rows: int) -> int:
    """The height in pixels of a heat map with so many rows."""
    return rows * (26 if rows <= 13 else 12)


def file_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of a chart for a picture file: of a fixed width, and light."""
    config = {**spec.get("config", {}), "font": "sans-serif"}
    return {**spec, "width": _WIDTH, "background": "white", "config": config}


def heat_map(
    rows: Sequence[Mapping[str, Any]],
    x: alt.X,
    y: alt.Y,
    *,
    label: str,
    form: str,
    domain: Sequence[float] | None = None,
    cells: int,
    tooltip: Sequence[alt.Tooltip],
    scheme: str = SEQUENTIAL,
) -> Any:
    """A heat map of the field ``value``, with its numbers where they fit.

    Args:
        rows: Data.
        x: Horizontal encoding.
        y: Vertical encoding.
        label: What the colour means, with its unit.
        form: Format of the numbers.
        domain: Smallest and largest value; those of the data by default.
        cells: Number of columns.
        tooltip: What a pointer shows.
        scheme: Vega's name of the colours; dark for small values.
    """
    values = [row["value"] for row in rows]
    low, high = domain or (min(values), max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    colour = alt.Color(
        "value:Q",
        title=label,
        scale=alt.Scale(scheme=scheme, domain=[low, high]),  # type: ignore[arg-type]
        legend=alt.Legend(orient="bottom", titleLimit=320, gradientLength=180),
    )
    base = alt.Chart(alt.Data(values=list(rows))).encode(x=x, y=y)
    squares = base.mark_rect(stroke="#80808040").encode(color=colour, tooltip=list(tooltip))
    if cells > 12:
        return alt.layer(squares)
    ink = alt.condition(f"datum.value < {low + 0.6 * (high - low)}", alt.value("white"), alt.value("black"))
    return alt.layer(
        squares,
        base.mark_text(fontSize=9 if cells > 6 else 11).encode(
            text=alt.Text("value:Q", format=form), color=ink, tooltip=list(tooltip)
        ),
    )


def lines(
    rows: Sequence[Mapping[str, Any]],
    x: alt.X,
    y: alt.Y,
    names: Sequence[str],
    *,
    title: str | None = None,
    tooltip: Sequence[alt.Tooltip],
) -> Any:
    """A line for each ``name``, told apart by colour and dash; a band where rows have ``low`` and ``high``.

    Args:
        rows: Data, with the field ``name``.
        x: Horizontal encoding.
        y: Vertical encoding.
        names: The names in the order of the legend.
        title: Title of the legend.
        tooltip: What a pointer shows.
    """
    legend = alt.Legend(
        orient="bottom",
        columns=1 if max(map(len, names)) > 22 else 2,
        labelLimit=330,
        symbolType="stroke",
        symbolSize=260,
        symbolStrokeWidth=2.5,
        symbolOpacity=1,
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    dashes = [DASHES[(i // len(COLOURS) + i) % len(DASHES)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=colours)
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=x, color=alt.Color("name:N", scale=scale, title=title, legend=legend, sort=None)
    )
    dash = alt.StrokeDash(
        "name:N", scale=alt.Scale(domain=list(names), range=dashes), title=title, legend=legend, sort=None
    )
    # Points show a line of one point, too; the legend shows lines.
    layers: list[Any] = []
    if any("low" in row for row in rows):
        band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q")
        layers.append(band.encode(tooltip=alt.value(None)))
    layers.append(base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash))
    layers.append(base.mark_point(filled=True, size=38, opacity=1).encode(y=y, tooltip=list(tooltip)))
    return alt.layer(*layers)
