"""The refusal of training in several processes, whose models would differ."""

from __future__ import annotations

import os

import torch


def check_single_process() -> None:
    """Refuses to train as one of several processes, each of which would train a model of its own.

    Raises:
        RuntimeError: torch.distributed has several ranks, or a launcher such as torchrun started several processes.
    """
    distributed = torch.distributed
    size = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    launched = os.environ.get("WORLD_SIZE", "1")
    if size > 1 or (launched.isdigit() and int(launched) > 1):
        raise RuntimeError(
            f"{max(size, int(launched))} processes: SD-LoRA trains in one process only, since each would train a model "
            "of its own. Start the script without torchrun, on one device (WORLD_SIZE unset or 1)"
        )
