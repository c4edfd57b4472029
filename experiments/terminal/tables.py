"""The tables that a run prints when it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avalanche_sdlora.metrics import AccuracyMatrix

_COLUMNS = {
    "acc": "Acc",
    "aaa": "AAA",
    "pooled_acc": "pooled",
    "balanced_acc": "balanced",
    "forgetting": "forgetting",
    "bwt": "BWT",
    "calibration_error": "ECE",
}


def print_report(
    name: str,
    matrix: AccuracyMatrix,
    baselines: Mapping[str, AccuracyMatrix | Mapping[str, float]] | None = None,
    *,
    parameters: Mapping[str, int] | None = None,
    more: Mapping[str, float] | None = None,
    images: str = "",
    classes: Sequence[Sequence[str]] = (),
    console: Console | None = None,
) -> None:
    """Print the accuracy matrix of a method, and its summary beside those of baselines.

    Args:
        name: Name of the method.
        matrix: Accuracies of the method.
        baselines: Accuracies of the baselines by name, or as many numbers of ``AccuracyMatrix.summary()`` as are
            known; a missing number shows as a dash.
        parameters: Numbers of parameters, as ``SDLoRAModel.parameter_report()`` gives them.
        more: Numbers of the method that are not in ``matrix.summary()``.
        images: A line that says which images these are.
        classes: The names of the classes of each task.
        console: Console to print on; the terminal by default.
    """
    console = console or Console()
    console.print(f"{escape(name)}: accuracy (%) on the task of a column after learning that of a row")
    console.print(_matrix_table(matrix, console.width))
    if None in matrix.rows():
        console.print("-: not measured; nor are AAA, forgetting and BWT, which need every row", highlight=False)
    for i, names in enumerate(classes, start=1):
        line = f"task {i}: {', '.join(names)}"
        told = line if len(line) <= console.width else f"{line[: console.width - 14].rstrip()}… ({len(names)})"
        console.print(escape(told), highlight=False)
    if images:
        console.print(escape(f"images: {images}"), highlight=False)
    console.print(_summary_table({name: matrix.summary() | dict(more or {}), **(baselines or {})}))
    if parameters:
        console.print(
            "parameters: " + ", ".join(f"{what} {number:,}" for what, number in parameters.items()), highlight=False
        )


def _matrix_table(matrix: AccuracyMatrix, width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    decimals = 1 if 6 * len(matrix) + 6 <= width else 0  # a long stream must fit the terminal
    table.add_column("", justify="right", style="bold")
    for j in range(len(matrix)):
        table.add_column(str(j + 1), justify="right")
    for i, row in enumerate(matrix.rows()):
        table.add_row(
            str(i + 1), *(f"{accuracy:.{decimals}f}" for accuracy in row or []), *("-" if row is None else "")
        )
    return table


def _summary_table(results: Mapping[str, AccuracyMatrix | Mapping[str, float]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
