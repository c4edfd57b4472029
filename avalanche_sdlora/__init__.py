"""SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198) for Avalanche: rehearsal-free class-incremental learning.

The names of this package are imported when they are first used: Avalanche takes ten times as long to import as
everything else, and whoever asks for :class:`SDLoRAConfig` alone need not wait for it.
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

from avalanche_sdlora.lazy import imported

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


def __getattr__(name: str) -> Any:
    return imported(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
