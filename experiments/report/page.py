"""The page of a run or of a comparison: one HTML file that needs nothing else, not even the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import altair
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from avalanche_sdlora.files import replacing
from benchmarks.images.readable import cache_folder
from experiments.figures import COMPARISON_FIGURES, RUN_FIGURES, Figure
from experiments.figures.pictures import specifications
from experiments.figures.style import Results, provenance
from experiments.report.comparison import differences, grouped, summary_table
from experiments.report.one_run import details, overview
from experiments.summary import summarize

TEMPLATES = Path(__file__).with_name("templates")


def write_report(
    path: str | Path,
    runs: Sequence[tuple[Path, Results]],
    names: Mapping[Path, str] | None = None,
    specs: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Write the page of finished runs, whole or not at all.

    One run is told in full; of several, what differs in their settings comes first, then their figures together, then
    each in brief.

    Args:
        path: The page.
        runs: The folder and the results of each run.
        names: Names of the methods by folder; by default the label of the method, with the settings that differ.
        specs: Specifications of the only run's figures by name, where they have been made before.
    """
    if not runs:
        raise ValueError("runs: none given; expected at least one")
    page = _one(*runs[0], specs) if len(runs) == 1 else _several(Path(path).parent, runs, names)
    text = (
        _environment()
        .get_template("page.html.j2")
        .render(
            page,
            style=Markup(_asset("page.css")),
            script=Markup(_asset("page.js")),
            vega=Markup(_vega()),
            provenance=provenance([results for _, results in runs]),
        )
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _one(folder: Path, results: Results, specs: Mapping[str, dict[str, Any]] | None) -> dict[str, Any]:
    specs = specifications(results) if specs is None else specs
    drawn = [_drawn(figure, specs.get(figure.name)) for figure in RUN_FIGURES]
    return {
        **overview(results),
        "sections": _sections(drawn),
        "details": details(folder, results),
        "comparison": None,
        "runs": [],
    }


def _several(place: Path, runs: Sequence[tuple[Path, Results]], names: Mapping[Path, str] | None) -> dict[str, Any]:
    groups = grouped(runs, names)
    streams: list[dict[str, Any]] = []
    for stream, methods in groups.items():
        rows = summarize({stream: methods})
        own = [results for cells in methods.values() for results in cells.values()]
        charts = [(f, f.draw(rows, own)) for f in COMPARISON_FIGURES]
        drawn = [_drawn(f, chart and chart.to_dict(), f"{f.name}_{len(streams)}") for f, chart in charts]
        streams.append({"name": stream, "table": summary_table(rows), "sections": _sections(drawn)})
    briefs = []
    for folder, results in runs:
        report = folder / "report.html"
        link = _relative(report, place) if report.is_file() else None
        briefs.append({**overview(results), "folder": folder.name, "link": link, "seed": results["seed"]})
    names_of = sorted({name for methods in groups.values() for name in methods})
    seeds = {results["seed"] for _, results in runs}
    return {
        "title": f"{len(names_of)} methods compared" if len(names_of) > 1 else f"{names_of[0]}, {len(runs)} runs",
        "lead": [
            f"{len(runs)} finished runs of {len(groups)} stream{'s' * (len(groups) > 1)} with "
            f"{len(seeds)} seed{'s' * (len(seeds) > 1)}. A seed gives the order of the classes and every random number."
        ],
        "cards": [],
        "sections": [],
        "details": None,
        "comparison": {"differences": differences(groups), "streams": streams},
        "runs": briefs,
    }


def _drawn(figure: Figure, spec: Mapping[str, Any] | None, name: str | None = None) -> dict[str, Any] | None:
    """A figure for the page: its texts, and its specification without the title, which the page says."""
    if spec is None:
        return None
    lines = spec["title"]["subtitle"]
    title = {"text": lines, "fontSize": 10, "fontWeight": "normal", "anchor": "start", "frame": "bounds"}
    told = {"name": name or figure.name, "title": figure.title, "about": figure.about, "section": figure.section}
    return {**told, "spec": Markup(_json({**spec, "title": title}))}


def _sections(drawn: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    found = [figure for figure in drawn if figure is not None]
    names = dict.fromkeys(figure["section"] for figure in found)
    return [{"name": name, "figures": [f for f in found if f["section"] == name]} for name in names]


def _json(value: Any) -> str:
    """JSON that nothing in it can end a script element with."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _relative(path: Path, place: Path) -> str:
    try:
        return path.resolve().relative_to(place.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_uri()


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script.

    Putting them together takes longer than all the rest of a page, so the script is kept in the user's cache folder.
    """
    version = ".".join(altair.SCHEMA_VERSION.split(".")[:2])
    kept = cache_folder() / f"vega-lite-{version}-by-{metadata.version('vl-convert-python')}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    bundle = bundle.replace("</script", "<\\/script")
    try:
        with replacing(kept) as temporary:
            temporary.write_text(bundle, encoding="utf-8")
    except OSError:  # a home that cannot be written to
        pass
    return bundle
