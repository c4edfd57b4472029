"""The results file of a run, and what somebody needs to repeat it."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_sdlora.files import replacing

_PACKAGES = ("avalanche-lib", "avalanche-sdlora", "numpy", "timm", "torch", "torchvision")


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


def environment() -> dict[str, Any]:
    """The versions, the commit, the kind of machine and the number of threads that somebody needs to repeat a run."""
    import torch

    from avalanche_sdlora.processes import size

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "commit": commit(),
        "processes": size(),
        "platform": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """The commit that this code is from, with a + where files have been changed since; None where git does not say."""
    root = Path(__file__).resolve().parents[1]
    asked = ("describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*")
    try:
        answer = subprocess.run(["git", "-C", root, *asked], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")
