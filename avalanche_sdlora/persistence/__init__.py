"""Files that outlive a process: checkpoints of a run, adapters, and exports to other libraries."""

from avalanche_sdlora.persistence.adapter_files import (
    AdaptersInfo,
    load_adapters,
    load_model,
    read_adapters,
    save_adapters,
)
from avalanche_sdlora.persistence.checkpoint import Checkpoint
from avalanche_sdlora.persistence.export import export_peft, merge

__all__ = [
    "AdaptersInfo",
    "Checkpoint",
    "export_peft",
    "load_adapters",
    "load_model",
    "merge",
    "read_adapters",
    "save_adapters",
]
