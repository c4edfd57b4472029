"""Figures as SVG files, and as pictures for TensorBoard."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image

from avalanche_sdlora.files import replacing
from experiments.figures import RUN_FIGURES
from experiments.figures.style import Results, file_spec


def specifications(results: Results) -> dict[str, dict[str, Any]]:
    """The Vega-Lite specification of every figure that a run has something to draw for, by the figure's name."""
    charts = {figure.name: figure.draw(results) for figure in RUN_FIGURES}
    return {name: chart.to_dict() for name, chart in charts.items() if chart is not None}


def write_svg(path: str | Path, spec: Mapping[str, Any]) -> None:
    """Write a figure as SVG, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(vl_convert.vegalite_to_svg(json.dumps(file_spec(spec))), encoding="utf-8")


def write_png(path: str | Path, spec: Mapping[str, Any]) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(vl_convert.vegalite_to_png(json.dumps(file_spec(spec)), scale=1.5))


def picture(spec: Mapping[str, Any]) -> Image.Image:
    """A figure as an RGB picture."""
    return Image.open(io.BytesIO(vl_convert.vegalite_to_png(json.dumps(file_spec(spec)), scale=1))).convert("RGB")
