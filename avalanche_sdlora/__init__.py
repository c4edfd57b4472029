"""SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198) for Avalanche: rehearsal-free class-incremental learning."""

from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.persistence import (
    AdaptersInfo,
    Checkpoint,
    export_peft,
    load_adapters,
    merge,
    read_adapters,
    save_adapters,
)
from avalanche_sdlora.ranks import RankSchedule
from avalanche_sdlora.training.plugin import SDLoRAPlugin
from avalanche_sdlora.training.strategy import SDLoRAStrategy

__all__ = [
    "AdaptersInfo",
    "Checkpoint",
    "RankSchedule",
    "SDLoRAConfig",
    "SDLoRAModel",
    "SDLoRAPlugin",
    "SDLoRAStrategy",
    "export_peft",
    "load_adapters",
    "merge",
    "read_adapters",
    "save_adapters",
]
