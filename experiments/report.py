"""The report of a run: tables on the terminal, JSON, and the picture of the accuracy matrix."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avalanche_sdlora.files import replacing
from avalanche_sdlora.processes import size
from experiments.accuracy import AccuracyMatrix

_COLUMNS = {
    "acc": "Acc",
    "aaa": "AAA",
    "pooled_acc": "pooled Acc",
    "forgetting": "forgetting",
    "bwt": "BWT",
}
_PACKAGES = ("avalanche-lib", "avalanche-sdlora", "numpy", "timm", "torch", "torchvision")


def print_report(
    name: str,
    matrix: AccuracyMatrix,
    baselines: Mapping[str, AccuracyMatrix | Mapping[str, float]] | None = None,
    *,
    parameters: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print the accuracy matrix of a method, and its summary beside those of baselines.

    Args:
        name: Name of the method.
        matrix: Accuracies of the method.
        baselines: Accuracies of the baselines by name, or as many numbers of ``AccuracyMatrix.summary()`` as are
            known; a missing number shows as a dash.
        parameters: Numbers of parameters, as ``SDLoRAModel.parameter_report()`` gives them.
        console: Console to print on; the terminal by default.
    """
    console = console or Console()
    console.print(f"{escape(name)}: accuracy (%) on the experience of a column after training on that of a row")
    console.print(_matrix_table(matrix, console.width))
    console.print(_summary_table({name: matrix, **(baselines or {})}))
    if parameters:
        console.print("parameters: " + ", ".join(f"{what} {number:,}" for what, number in parameters.items()))


def _matrix_table(matrix: AccuracyMatrix, width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    decimals = 1 if 6 * len(matrix) + 6 <= width else 0  # a long stream must fit the terminal
    table.add_column("", justify="right", style="bold")
    for j in range(len(matrix)):
        table.add_column(str(j), justify="right")
    for i, row in enumerate(matrix.rows()):
        table.add_row(str(i), *(f"{accuracy:.{decimals}f}" for accuracy in row or []))
    return table


def _summary_table(results: Mapping[str, AccuracyMatrix | Mapping[str, float]]) -> Table:
    table = Table()
    table.add_column("percent", overflow="fold")
    for label in _COLUMNS.values():
        table.add_column(label, justify="right")
    for name, result in results.items():
        numbers = result.summary() if isinstance(result, AccuracyMatrix) else result
        unknown = numbers.keys() - _COLUMNS.keys()
        if unknown:
            raise ValueError(f"{name}: no column for {', '.join(sorted(unknown))}; there are {', '.join(_COLUMNS)}.")
        table.add_row(escape(name), *(f"{numbers[key]:.2f}" if key in numbers else "-" for key in _COLUMNS))
    return table


def write_json(path: str | Path, data: Any) -> None:
    """Write strict JSON in one step: a reader finds the old file or the whole new one, never a part.

    Numpy numbers and arrays are written as numbers and lists, paths as text.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot say.
        TypeError: A value has a type that JSON cannot say.
    """
    with replacing(path) as temporary, open(temporary, "x", encoding="utf-8") as file:
        json.dump(data, file, indent=2, allow_nan=False, ensure_ascii=False, default=_plain)
        file.write("\n")


def plot_accuracy_matrix(path: str | Path, matrix: AccuracyMatrix, title: str) -> None:
    """Draw the accuracy matrix as a heat map with its numbers; a reader finds the old picture or the whole new one.

    Args:
        path: The picture; its suffix (``.png``, ``.svg``, ``.pdf``) gives the format.
        matrix: The accuracies; above the diagonal the picture is empty.
        title: Title above the picture.

    Raises:
        ValueError: The suffix is no format that matplotlib writes.
    """
    n = len(matrix)
    side = max(4.2, 0.55 * n + 1.8)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(matrix.values), cmap="viridis", vmin=0, vmax=100)
    for i, row in enumerate(matrix.rows()):
        for j, accuracy in enumerate(row or []):
            # Viridis is dark up to about 60.
            colour = "white" if accuracy < 60 else "black"
            axes.text(j, i, f"{accuracy:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(n))
    axes.set_yticks(range(n))
    axes.set_xlabel("test experience")
    axes.set_ylabel("after training on experience")
    axes.set_title(title, wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(image, ax=axes, label="accuracy (%)", fraction=0.046, pad=0.03)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".").lower() or "png", dpi=150)


def environment() -> dict[str, Any]:
    """The versions, the kind of machine and the number of threads that somebody needs to repeat a run."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "processes": size(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")
