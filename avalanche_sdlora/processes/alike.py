"""Whether all processes hold the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.processes.collectives import gather_objects
from avalanche_sdlora.processes.group import several


def check_alike(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuses to go on with tensors that are not the same in all processes, bit for bit.

    Args:
        tensors: By name.
        what: Beginning of the message.

    Raises:
        RuntimeError: They differ; the message names the first tensor that does, and the ranks.
    """
    if not several():
        return
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    together = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
    if len(set(gather_objects(together))) == 1:
        return
    found = gather_objects(digests)
    for name in sorted(set().union(*found)):
        groups = _groups([own.get(name, "missing") for own in found])
        if len(groups) > 1:
            raise RuntimeError(
                f"{what}: {name!r} is not the same in all processes ({' | '.join(groups)}). Something in the script "
                "draws random numbers, changes the model or stops training in some processes only"
            )


def check_same(thing: Any, what: str) -> None:
    """Refuses to go on with small plain objects that differ from process to process.

    Raises:
        RuntimeError: They do; the message begins with ``what`` and shows them.
    """
    found = gather_objects(thing)
    if any(other != found[0] for other in found):
        shown = "; ".join(f"rank {r}: {other!r}" for r, other in enumerate(found))
        raise RuntimeError(f"{what} differs from process to process: {shown}")


def _digest(tensor: Tensor) -> str:
    own = tensor.detach().cpu().contiguous()
    values = own.reshape(-1).view(torch.uint8).numpy() if own.numel() else b""
    return hashlib.sha256(repr((tuple(own.shape), str(own.dtype))).encode() + bytes(values)).hexdigest()


def _groups(digests: list[str]) -> list[str]:
    """The ranks that agree with each other, as texts."""
    agreeing: dict[str, list[int]] = {}
    for rank, digest in enumerate(digests):
        agreeing.setdefault(digest, []).append(rank)
    return [f"rank {', '.join(map(str, ranks))}" for ranks in agreeing.values()]
