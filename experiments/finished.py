"""What an output folder holds already, and whether a run can write there: looked at before anything else."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avalanche_sdlora import SDLoRAConfig
from experiments.arguments import CIRCUMSTANCES, Arguments
from experiments.options.run_options import renamed
from experiments.resolve import Resolved


def finished(resolved: Resolved) -> dict[str, Any] | None:
    """The results of the run in its output folder, None where it has not been made.

    Raises:
        ValueError: The folder holds the results of a run with other arguments.
    """
    path = Path(str(resolved.arguments.output), "results.json")
    if not path.exists():
        return None
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    there, asked = material(results["arguments"], results["config"]), material_of(resolved)
    differences = [
        f"{name} {there.get(name)!r} there, {asked.get(name)!r} asked"
        for name in sorted(there.keys() | asked.keys())
        if there.get(name) != asked.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path} is of another run ({'; '.join(differences)}): name another --output, or remove {path.parent}"
        )
    return results


def material_of(resolved: Resolved) -> dict[str, Any]:
    """All that makes a run another one than others, see :func:`material`."""
    return material(resolved.arguments.flat(), json.loads(json.dumps(resolved.described())))


def material(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """All that makes one run another one than others, by name.

    Settings of the method count as ``config`` has them, wherever they came from; one that was unknown when the run was
    made has its default.

    Args:
        arguments: The ``arguments`` of a results file, of version 0.1 too, which had other names.
        config: The ``config`` of that file.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Arguments) if field.name != "settings"}
    own = {name: arguments.get(name, default) for name, default in defaults.items() if name not in CIRCUMSTANCES}
    own["weights"] = own["weights"] and Path(own["weights"]).name
    if "bfloat16" in arguments:
        own["precision"] = "bfloat16" if arguments["bfloat16"] else "float32"
    return own | {renamed(name): value for name, value in {**SDLoRAConfig().to_dict(), **config}.items()}


def check_output(folder: str | Path) -> None:
    """Refuse a folder that no file can be written to; nothing is made or changed.

    Raises:
        ValueError: It is a file, below a file, or on a file system that cannot be written to.
    """
    path = Path(folder).absolute()
    there = next(part for part in (path, *path.parents) if part.exists())
    if not there.is_dir():
        what = "is a file" if there == path else f"would be below the file {there}"
        raise ValueError(f"output={str(folder)!r}: {what}; expected a folder, new or of the run that is to go on")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"output={str(folder)!r}: {there} cannot be written to; name another folder")
