"""The group of processes: joined once, from what torchrun says."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist

from avalanche_sdlora.processes import lifeline


def start(timeout: float = 600.0) -> None:
    """Joins the processes that a launcher has started; in a program of one process it does nothing.

    torchrun says in the environment who they are (``WORLD_SIZE``, ``RANK``, ``LOCAL_RANK``, ``MASTER_ADDR``,
    ``MASTER_PORT``). A strategy with :class:`avalanche_sdlora.SDLoRAPlugin` and a :class:`avalanche_sdlora.Checkpoint`
    call this function themselves; a script calls it first if it asks :func:`is_first` before it makes them. Collectives
    on CPU tensors go through gloo, on GPU tensors through nccl. The GPU ``cuda`` is that of ``LOCAL_RANK``.

    Args:
        timeout: Seconds that a process waits for the others, at most; they must all be started, and reach the same
            place of the program, within this time of each other. A process that has died is noticed sooner.

    Raises:
        RuntimeError: The environment says that there are several processes, but not which of them this is; or there
            are more processes than GPUs on this machine.
    """
    if not dist.is_available():
        return
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise RuntimeError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} but {', '.join(missing)} not set: start the processes with "
                "torchrun --nproc_per_node N script.py, or unset WORLD_SIZE"
            )
        if torch.cuda.is_available():
            if local_rank() >= torch.cuda.device_count():
                raise RuntimeError(
                    f"LOCAL_RANK={local_rank()}, but this machine shows {torch.cuda.device_count()} GPUs: start at "
                    "most one process for each (--nproc_per_node), or hide them all (CUDA_VISIBLE_DEVICES=)"
                )
            torch.cuda.set_device(local_rank())
        # While Avalanche is imported it makes a logger, which it refuses to make once these processes have joined.
        import_module("avalanche.training")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        atexit.register(_leave)
    if dist.get_world_size() > 1:
        lifeline.begin()


def _leave() -> None:
    lifeline.end()
    if dist.is_initialized():
        dist.destroy_process_group()


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def several() -> bool:
    """Whether there is more than one process."""
    return size() > 1


def is_first() -> bool:
    """Whether this process is the one that prints, logs and writes files."""
    return rank() == 0
