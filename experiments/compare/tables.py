"""The files of a comparison: a table as Markdown and CSV, and the report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avalanche_sdlora.files import replacing
from experiments.arguments import dataset_title
from experiments.compare.folder import cell_folder, collect
from experiments.report.one_run import NOT_MEASURED
from experiments.report.page import write_report
from experiments.summary import COMPARED, MEASURES, Estimate, Row, summarize

COLUMNS = ("seeds", "Acc", "AAA", "forgetting", "Acc to the first", "AAA to the first", "gap", "parameters", "seconds")

HEADER = """\
Percent; mean ± standard error over seeds, and a seed gives the class order too. *To the first* is the difference to the
first method of the table, paired by seed; bold where it is farther from zero than its standard error. *Gap* is the
share of the way from sequential LoRA (method `lora`) to joint LoRA (`joint`), of Acc and by seed. *Parameters* are
those kept at the end, beyond the frozen backbone; *seconds* are those of training and evaluation. *Published* rows are
copied from Wu et al., ICLR 2025 (ViT-B/16, all images), and were not measured here.
"""


def write_comparison(folder: str | Path) -> list[Row]:
    """Writes ``comparison.md``, ``comparison.csv`` and ``report.html`` from the finished cells in ``folder``.

    Raises:
        ValueError: As :func:`collect`.
    """
    found = collect(folder)
    rows = summarize(found)
    with replacing(Path(folder, "comparison.md")) as path:
        path.write_text(markdown(rows), encoding="utf-8")
    with replacing(Path(folder, "comparison.csv")) as path, open(path, "w", encoding="utf-8", newline="") as file:
        table = _flat(rows)
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    cells = [
        (cell_folder(folder, stream, method, seed), results, method)
        for stream, methods in found.items()
        for method, seeds in methods.items()
        for seed, results in seeds.items()
    ]
    names = {path: method for path, _, method in cells}
    write_report(Path(folder, "report.html"), [(path, results) for path, results, _ in cells], names)
    print(markdown(rows))
    print(f"comparison.md and comparison.csv are in {folder}\nreport: {Path(folder, 'report.html')}")
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The tables, one for each stream."""
    lines = [HEADER]
    for stream in dict.fromkeys(row.stream for row in rows):
        images = next((row.images for row in rows if row.stream == stream and row.images), "")
        lines += [f"**{dataset_title(stream)}**" + (f" ({images})" if images else ""), ""]
        lines += [f"| method | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
        for row in (row for row in rows if row.stream == stream):
            cells = [row.method, str(len(row.seeds) or "")]
            cells += [
                _text(row.values.get(key)) or ("" if row.kind == "published" else NOT_MEASURED) for key in MEASURES
            ]
            cells += [_difference(row.differences.get(key)) for key in COMPARED]
            cells += [_text(row.values.get("gap"), 0)]
            cells += [_text(row.values.get(key), 0, plain=True) for key in ("parameters", "seconds")]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _text(estimate: Estimate | None, digits: int = 1, *, plain: bool = False) -> str:
    if estimate is None:
        return ""
    return f"{estimate.mean:,.{digits}f}" if plain else estimate.text(digits)


def _difference(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    text = estimate.text(sign=True)
    return f"**{text}**" if estimate.error is not None and abs(estimate.mean) > estimate.error else text


def _flat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of plain values; an unknown value is empty."""
    table = []
    for row in rows:
        flat: dict[str, Any] = {"stream": row.stream, "method": row.method, "kind": row.kind}
        flat["seeds"] = " ".join(map(str, row.seeds))
        named = {key: row.values.get(key) for key in (*MEASURES, "gap", "parameters", "seconds")}
        named |= {f"{key}_to_first": row.differences.get(key) for key in COMPARED}
        for key, estimate in named.items():
            flat[key] = "" if estimate is None else estimate.mean
            flat[f"{key}_se"] = "" if estimate is None or estimate.error is None else estimate.error
        table.append(flat)
    return table
