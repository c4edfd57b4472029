"""What the page says of several runs: what differs in their settings, and their numbers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.arguments import CIRCUMSTANCES
from experiments.figures.style import Results
from experiments.report.one_run import NOT_MEASURED, settings
from experiments.summary import COMPARED, MEASURES, Estimate, Row

#: Runs by stream, method and seed.
Groups = dict[str, dict[str, dict[int, Results]]]

_OWN = CIRCUMSTANCES | {"dataset", "seed", "weights"}


def grouped(runs: Sequence[tuple[Path, Results]], names: Mapping[Path, str] | None = None) -> Groups:
    """Runs by stream, method and seed, in the order in which they were given.

    Runs that differ in their seed only are one method. A method is called what ``names`` says of its folder, else by
    its label and, where others have that label too, by the settings in which they differ.
    """
    kinds: dict[tuple[Any, ...], list[tuple[Path, Results]]] = {}
    for folder, results in runs:
        key = (results["arguments"]["dataset"], (names or {}).get(folder), *sorted(_material(results).items()))
        kinds.setdefault(key, []).append((folder, results))
    found: Groups = {}
    for (stream, given, *material), cells in kinds.items():
        others = [dict(key[2:]) for key in kinds if key[0] == stream]
        name = given or _name(cells[0][1], dict(material), others)
        methods = found.setdefault(stream, {})
        for i, (_, results) in enumerate(cells):
            label = name
            while results["seed"] in methods.get(label, {}):  # the same run twice: told apart by its number
                i, label = i + 1, f"{name} #{i + 1}"
            methods.setdefault(label, {})[results["seed"]] = results
    return found


def _material(results: Results) -> dict[str, str]:
    return {name: value for name, value in settings(results).items() if name not in _OWN}


def _name(results: Results, own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    rivals = [other for other in others if other != own]
    differing = [name for name in own if any(other.get(name) != own[name] for other in rivals)]
    short = [name for name in differing if name not in ("method", "recipe")][:2]
    label = str(results["method"])
    same = any(other.get("method") == own.get("method") for other in rivals)
    told = ", ".join(f"{name.rpartition('.')[2]} {own[name]}" for name in short)
    return f"{label} ({told})" if same and told else label


def differences(groups: Groups) -> dict[str, Any] | None:
    """A table of the settings that are not the same for all methods of a stream; None where nothing differs."""
    methods = {
        (stream, name): _material(next(iter(cells.values())))
        for stream, found in groups.items()
        for name, cells in found.items()
    }
    names = sorted({name for material in methods.values() for name in material})
    differing = [name for name in names if len({material.get(name) for material in methods.values()}) > 1]
    if not differing:
        return None
    several = len(groups) > 1
    columns = [f"{name} on {stream}" if several else name for stream, name in methods]
    rows = [[name, *(material.get(name, "-") for material in methods.values())] for name in differing]
    return {"columns": ["setting", *columns], "rows": rows}


def summary_table(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers of all methods, baselines and published results of a stream, with their standard errors."""
    columns = ["method", "kind", "seeds", *(f"{label} (%)" for label in MEASURES.values())]
    columns += [f"{MEASURES[key]}, to the first" for key in COMPARED] + ["parameters", "seconds"]
    table = []
    for row in rows:
        cells: list[Any] = [row.method, row.kind, len(row.seeds) or ""]
        cells += [_text(row.values.get(key)) or ("" if row.kind == "published" else NOT_MEASURED) for key in MEASURES]
        cells += [_text(row.differences.get(key), sign=True) for key in COMPARED]
        cells += [_text(row.values.get(key), 0) for key in ("parameters", "seconds")]
        table.append(cells)
    return {"columns": columns, "rows": table}


def _text(estimate: Estimate | None, digits: int = 1, *, sign: bool = False) -> str:
    return "" if estimate is None else estimate.text(digits, sign=sign)
