"""One forward pass of the model, as the adapters inside it see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from avalanche_sdlora.heads.classifier import features_of


class _Adapter(Protocol):
    """The attributes of an adapter that this module uses."""

    took_part_compiled: bool


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
    """Give a call to which the adapters of this thread report until the block ends."""
    call = Call(torch.is_grad_enabled())
    token = _PRESENT.set(call)
    try:
        yield call
    finally:
        _PRESENT.reset(token)


def take_part(adapter: _Adapter) -> None:
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


def run(
    backbone: nn.Module,
    x: Tensor,
    adapters: Mapping[str, _Adapter],
    autocast: torch.dtype | None,
    more: tuple[Tensor, ...] = (),
    function: Callable[..., Any] | None = None,
) -> tuple[Any, list[str]]:
    """Run ``backbone`` on ``x``; gives its output and the names of the ``adapters`` that took no part.

    Args:
        backbone: The adapted backbone.
        x: Its input; a floating one is cast to its type where no autocast is on.
        adapters: The backbone's adapters by name.
        autocast: Precision of the pass; None: that of the caller.
        more: Further inputs.
        function: What else is computed with the backbone's layers, from the same inputs; None: its own output.
    """
    function = backbone if function is None else function
    if x.is_floating_point() and autocast is None and not torch.is_autocast_enabled(x.device.type):
        x = x.to(next(p.dtype for p in backbone.parameters() if p.is_floating_point()))
    parts: set[int] = set()
    with nullcontext() if autocast is None else torch.autocast(x.device.type, autocast):
        if torch.compiler.is_compiling():
            features = features_of(function(x, *more))
        else:
            with one_call() as call:
                features, parts = features_of(function(x, *more)), call.parts
    return features, [name for name, a in adapters.items() if not (a.took_part_compiled or id(a) in parts)]


@torch.compiler.disable
@torch.no_grad()
def idle_in_evaluation(
    backbone: nn.Module,
    x: Tensor,
    adapters: Mapping[str, _Adapter],
    autocast: torch.dtype | None,
    more: tuple[Tensor, ...] = (),
) -> list[str]:
    """The names of the adapters that take no part in evaluation; modes and random numbers stay as they are."""
    modes = [(m, m.training) for m in backbone.modules()]
    devices = [] if x.device.type == "cpu" else [x.device]
    with torch.random.fork_rng(devices, device_type=x.device.type if devices else "cuda"):
        try:
            for module, _ in modes:
                module.training = False
            return run(backbone, x, adapters, autocast, more)[1]
        finally:
            for module, training in modes:
                module.training = training
