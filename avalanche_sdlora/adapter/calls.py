"""One forward pass of the model, as the adapters inside it see it, and whether it gives features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from avalanche_sdlora.heads.classifier import check_end, features_of, not_the_classifier, what_passes


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


class CheckedPass:
    """Runs a backbone, and refuses one in which adapters are idle, or whose output is something else than features.

    A pass that has shown that all is well is remembered, so that later ones are not looked at again.
    """

    def __init__(self) -> None:
        self._all_took_part = False
        self._ends_there = False  # the backbone ends where its classifier was

    def __call__(
        self,
        backbone: nn.Module,
        x: Tensor,
        adapters: Mapping[str, _Adapter],
        size: int,
        autocast: torch.dtype | None,
        more: tuple[Tensor, ...] = (),
        function: Callable[..., Any] | None = None,
    ) -> Tensor:
        """Features ``(n, size)`` that the backbone, or another function of its layers, gives.

        Args:
            backbone: The adapted backbone.
            x: Its input ``(n, ...)``.
            adapters: The backbone's adapters by name.
            size: Numbers that the features of a sample have.
            autocast: Precision of the pass; None: that of the caller.
            more: Further inputs, ``(n, ...)`` each.
            function: What is computed with the backbone's layers, from the same inputs; None: its own output.

        Raises:
            ValueError: The backbone does something after its classifier, or another layer was taken for that.
            RuntimeError: An adapter took no part in the pass, so adapting it would change nothing (in training
                mode only if it takes no part in evaluation either); gradients are recorded around it but not
                where it is; or the features have another shape.
        """
        with what_passes() as passed:
            try:
                features, idle = run(backbone, x, adapters, autocast, more, function)
            except (RuntimeError, ValueError, TypeError) as error:
                if passed and not self._ends_there:
                    raise ValueError(f"{not_the_classifier(backbone)} ({error})") from error
                raise
        if not backbone.training:
            self._all_took_part = self._all_took_part or not idle
        elif idle and not self._all_took_part:
            # Layers may be skipped at random in training; only an adapter that is idle in evaluation too is an error.
            idle = idle_in_evaluation(backbone, x[:1], adapters, autocast, tuple(t[:1] for t in more))
            self._all_took_part = not idle
        else:
            idle = []
        if idle:
            raise RuntimeError(
                f"{len(idle)} of {len(adapters)} adapted layers took no part in the forward pass, the first "
                f"being {idle[0]!r}: the model neither calls them nor reads their weight. Name other targets"
            )
        if not self._ends_there and isinstance(features, Tensor) and not torch.compiler.is_compiling():
            check_end(backbone, passed, features)
            self._ends_there = True
        if not isinstance(features, Tensor) or features.dim() != 2 or features.shape[1] != size:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise RuntimeError(
                f"the backbone must give features of shape (n, {size}), got {got}; if it has a "
                "classifier still, name that: SDLoRAModel(..., classifier='NAME')"
            )
        return features
