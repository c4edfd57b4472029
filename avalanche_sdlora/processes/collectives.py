"""What processes tell each other: sums, rows, and what the first one says.

Every process must call these functions in the same order. Whoever waits for a process that is lost gets a
:class:`avalanche_sdlora.processes.lifeline.ProcessLostError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from avalanche_sdlora.processes.group import is_first, rank, several, size
from avalanche_sdlora.processes.lifeline import collective

T = TypeVar("T")


def share(n: int) -> range:
    """This process's part of ``n`` things that have an order: each belongs to exactly one process, none is repeated.

    The parts are consecutive, in the order of the ranks, and differ by at most one in size; some are empty where there
    are fewer things than processes.
    """
    return range(rank() * n // size(), (rank() + 1) * n // size())


@torch.no_grad()
def all_sum(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all processes, in its type; every process gets the same bits."""
    if not several():
        return tensor
    total = tensor.detach().clone().contiguous()
    with collective("a sum"):
        dist.all_reduce(total)
    return total


@torch.no_grad()
def gather_rows(*tensors: Tensor) -> list[Tensor]:
    """The rows ``(n_r, ...)`` of all processes, ``(sum of n_r, ...)``, in the order of the ranks.

    Args:
        *tensors: Of ``n_r`` rows each, on one device; whatever their number, they travel together.
    """
    if not several():
        return list(tensors)
    n, device = len(tensors[0]), tensors[0].device
    counts = torch.zeros(size(), dtype=torch.long, device=device)
    counts[rank()] = n
    lengths = all_sum(counts).tolist()
    widths = [math.prod(t.shape[1:]) * t.element_size() for t in tensors]
    rows = torch.zeros(max(lengths), sum(widths), dtype=torch.uint8, device=device)
    for part, t, width in zip(rows[:n].split(widths, dim=1), tensors, widths):
        part.copy_(t.detach().reshape(n, width // t.element_size()).contiguous().view(torch.uint8))
    found = [torch.empty_like(rows) for _ in lengths]
    with collective("the rows of all processes"):
        dist.all_gather(found, rows)
    together = torch.cat([part[:n] for part, n in zip(found, lengths)])
    return [
        part.contiguous().view(t.dtype).reshape(len(together), *t.shape[1:])
        for part, t in zip(together.split(widths, dim=1), tensors)
    ]


def gather_objects(thing: T) -> list[T]:
    """What each process has, in the order of the ranks. Small plain objects, which are pickled."""
    if not several():
        return [thing]
    found: list[Any] = [None] * size()
    with collective("word from all processes"):
        dist.all_gather_object(found, thing)
    return found


def first_object(thing: T) -> T:
    """What the first process has. Small plain objects, which are pickled."""
    if not several():
        return thing
    box: list[Any] = [thing]
    with collective("word from the first process"):
        dist.broadcast_object_list(box, src=0)
    return box[0]


def from_first(work: Callable[[], T], device: torch.device | None = None) -> T:
    """What ``work()`` returns in the first process, which alone does it; every process gets the same bits.

    Args:
        work: Returns plain objects, tensors, and containers of these. An error of it is raised in every process.
        device: Where tensors are wanted; by default they stay where they are in the first process and are on the CPU in
            the others.
    """
    if not several():
        return work()
    result: Any = None
    error: Exception | None = None
    if is_first():
        try:
            result = work()
        except Exception as raised:
            error = raised
    sent = (tree_map_only(Tensor, lambda t: t.detach().cpu(), result), error) if is_first() else None
    found, failed = first_object(sent)  # type: ignore[misc]
    if failed is not None:
        raise error if error is not None else failed
    found = result if is_first() else found
    return found if device is None else tree_map_only(Tensor, lambda t: t.to(device), found)


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrites tensors with those of the first process, which have the same shapes."""
    if not several():
        return
    for tensor in tensors:
        values = tensor.detach().contiguous()
        with collective("the tensors of the first process"):
            dist.broadcast(values, src=0)
        tensor.copy_(values)


def wait_for_all() -> None:
    """Goes on once every process is here."""
    gather_objects(None)
