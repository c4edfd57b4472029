"""Names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def imported(package: str, homes: Mapping[str, tuple[str, ...]], name: str) -> Any:
    """What a name of a package stands for; the package keeps it, so that it is asked for once.

    Args:
        package: The full name of the package.
        homes: By module of the package, the names that come from it.
        name: One of these names, or a module of the package.

    Raises:
        AttributeError: It is neither.
    """
    for module, names in homes.items():
        if name in names:
            value = getattr(import_module(f"{package}.{module}"), name)
            setattr(sys.modules[package], name, value)
            return value
    if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:  # avalanche_sdlora.processes.size()
        return import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
