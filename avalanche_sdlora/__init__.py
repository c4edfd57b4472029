"""SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198) for Avalanche: rehearsal-free class-incremental learning."""

from importlib import metadata

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
