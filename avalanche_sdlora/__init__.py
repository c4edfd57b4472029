"""SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198) for Avalanche: rehearsal-free class-incremental learning.

The names of this package are imported when they are first used: Avalanche takes ten times as long to import as
everything else, and whoever asks for :class:`SDLoRAConfig` alone need not wait for it.
"""

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalanche_sdlora.backbones import create_backbone
    from avalanche_sdlora.config import SDLoRAConfig
    from avalanche_sdlora.methods import CLoRAPlugin, InfLoRAPlugin, LoRAPlugin, LwFPlugin, NLoRAPlugin, OLoRAPlugin
    from avalanche_sdlora.model import SDLoRAModel
    from avalanche_sdlora.persistence import (
        AdaptersInfo,
        Checkpoint,
        export_peft,
        load_adapters,
        load_model,
        merge,
        read_adapters,
        save_adapters,
    )
    from avalanche_sdlora.ranks import RankSchedule
    from avalanche_sdlora.training.plugin import SDLoRAPlugin
    from avalanche_sdlora.training.strategy import SDLoRAStrategy

try:
    __version__ = metadata.version("avalanche-sdlora")
except metadata.PackageNotFoundError:  # used from a checkout that was never installed
    __version__ = "unknown"

__all__ = [
    "AdaptersInfo",
    "CLoRAPlugin",
    "Checkpoint",
    "InfLoRAPlugin",
    "LoRAPlugin",
    "LwFPlugin",
    "NLoRAPlugin",
    "OLoRAPlugin",
    "RankSchedule",
    "SDLoRAConfig",
    "SDLoRAModel",
    "SDLoRAPlugin",
    "SDLoRAStrategy",
    "__version__",
    "create_backbone",
    "export_peft",
    "load_adapters",
    "load_model",
    "merge",
    "read_adapters",
    "save_adapters",
]

#: The modules of the names above, as for a type checker at the top.
_HOMES = {
    "backbones": ("create_backbone",),
    "config": ("SDLoRAConfig",),
    "methods": ("CLoRAPlugin", "InfLoRAPlugin", "LoRAPlugin", "LwFPlugin", "NLoRAPlugin", "OLoRAPlugin"),
    "model": ("SDLoRAModel",),
    "persistence.adapter_files": ("AdaptersInfo", "load_adapters", "load_model", "read_adapters", "save_adapters"),
    "persistence.checkpoint": ("Checkpoint",),
    "persistence.export": ("export_peft", "merge"),
    "ranks": ("RankSchedule",),
    "training.plugin": ("SDLoRAPlugin",),
    "training.strategy": ("SDLoRAStrategy",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what a name stands for (PEP 562), once."""
    if name in _HOME:
        globals()[name] = value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:  # avalanche_sdlora.processes.size()
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
