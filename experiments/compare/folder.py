"""The folder of a comparison: which cells are finished, and in which order they are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results import write_json
from experiments.summary import Results


def cell_folder(folder: str | Path, stream: str, method: str, seed: int) -> Path:
    """The folder of one run of a comparison."""
    return Path(folder, re.sub(r"[^\w.-]+", "_", stream), method, f"seed{seed}")


def remember_order(folder: str | Path, streams: Sequence[str], methods: Sequence[str]) -> None:
    """Note in which order streams and methods are shown; those that were noted before come first."""
    before = _order(Path(folder))
    after = {"streams": streams, "methods": methods}
    order = {key: list(dict.fromkeys([*before[key], *after[key]])) for key in after}
    if order != before:
        write_json(Path(folder, "order.json"), order)


def _order(folder: Path) -> dict[str, list[str]]:
    path = folder / "order.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"streams": [], "methods": []}


def collect(folder: str | Path) -> dict[str, dict[str, dict[int, Results]]]:
    """The finished results in a folder by stream, method and seed, in the order of the comparison.

    Raises:
        ValueError: A file is no JSON, or there is none.
    """
    found: dict[str, dict[str, dict[int, Results]]] = {}
    for path in sorted(Path(folder).glob("*/*/seed*/results.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not readable as JSON ({error})") from None
        cells = found.setdefault(results["arguments"]["dataset"], {}).setdefault(path.parts[-3], {})
        cells[results["seed"]] = results
    if not found:
        raise ValueError(f"{folder}: nothing in it is finished (STREAM/METHOD/seedN/results.json)")
    order = _order(Path(folder))
    return {
        stream: {method: found[stream][method] for method in _sorted(found[stream], order["methods"])}
        for stream in _sorted(found, order["streams"])
    }


def _sorted(names: Mapping[str, Any], order: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))
