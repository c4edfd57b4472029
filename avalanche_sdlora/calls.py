"""One forward pass of the model, as the adapters inside it see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch


class Call:
    """A forward pass of the backbone.

    Attributes:
        records: Whether gradients are recorded where the pass begins.
        parts: The ``id`` of every adapter that has taken part so far.
    """

    def __init__(self, records: bool) -> None:
        self.records = records
        self.parts: set[int] = set()


_PRESENT: ContextVar[Call | None] = ContextVar("avalanche_sdlora_call", default=None)  # each thread has its own


@contextmanager
def one_call() -> Iterator[Call]:
    """Within it the adapters of this thread report to the call that it gives."""
    call = Call(torch.is_grad_enabled())
    token = _PRESENT.set(call)
    try:
        yield call
    finally:
        _PRESENT.reset(token)


def take_part(adapter: object) -> None:
    """Reports that ``adapter`` takes part in the present call, if there is one.

    Raises:
        RuntimeError: Gradients are recorded around the adapter but not where it is, so that it would never learn.
    """
    call = _PRESENT.get()
    if call is None:  # used outside a model, or computed again by gradient checkpointing
        return
    call.parts.add(id(adapter))
    if call.records and not torch.is_grad_enabled():
        raise RuntimeError(
            "gradients are recorded, but not inside the backbone, so that its adapters would not learn: it runs some "
            "layers under torch.no_grad, as re-entrant gradient checkpointing does; use "
            "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) there, whose gradients are exact"
        )
