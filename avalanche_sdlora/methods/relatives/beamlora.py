"""BeamLoRA: the weakest columns of a direction make room for copies of the strongest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.gated import GatedPlugin


def weakest_and_strongest(importance: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The columns to overwrite, and those to copy into them: beyond ``share`` of the importance, half at most.

    Args:
        importance: ``(r,)``, of sum 1.
        share: Above 0 and at most 1, of the importance that is kept.

    Returns:
        Indices ``(k,)`` of the weakest, weakest last, and ``(k,)`` of the strongest, strongest first.
    """
    order = importance.argsort(descending=True)
    needed = int((importance[order].cumsum(0) < share - 1e-6).sum()) + 1
    k = max(0, min(len(order) - needed, len(order) // 2))
    return order[len(order) - k :], order[:k]


class BeamLoRAPlugin(GatedPlugin):
    """BeamLoRA (Gu et al., ACL 2025, arXiv 2502.13604): a search over columns, of which promising ones get more room.

    The update is ``B diag(r softmax(s)) A`` with trained scores ``s (r,)``, 0 at first, so that it starts as LoRA does;
    the factor ``r`` is chosen here. At every tenth of a task's steps the columns beyond a share of the importance are
    overwritten by the strongest (:func:`weakest_and_strongest`): by their factors and optimizer state of half an
    interval ago, since two equal columns would stay equal, as the authors' code does. A copy and its model share the
    importance that the model had, chosen here. The share rises from its first value to 1 along a half cosine,
    as the code has it.

    Args:
        share: Of the importance, kept at a task's beginning; 0.95 in the authors' code.
        rounds: Number of intervals of a task; 10, so that there are nine times of overwriting.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, share: float = 0.95, rounds: int = 10) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share={share!r}: expected a number above 0 and at most 1")
        if type(rounds) is not int or rounds < 1:
            raise ValueError(f"rounds={rounds!r}: expected a whole number of at least 1")
        self.share = share
        self.rounds = rounds
        #: For each projection the scores ``(r,)``.
        self.scores: list[Tensor] = []
        self._kept: list[dict[str, Tensor]] = []  # for each projection, factors and their state, half an interval ago

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Starts with equal scores."""
        super().begin(strategy, projections, num_workers)
        self.scores = [p.scale.new_zeros(len(p.A)) for p in projections_of(strategy.model)]
        self._kept = []

    def stepped(self, projection: Projection, index: int, gate: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """``r softmax(s)`` of the scores after Adam's step."""
        s = self.scores[index].to(gate)
        p = s.softmax(0)
        s = s - rate * self.adam(index, len(s) * (p * gradient - p * (p @ gradient)))
        self.scores[index] = s
        return len(s) * s.softmax(0)

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Steps the scores; keeps the columns, or overwrites the weakest, where half an interval ends."""
        super().after_update(strategy, **kwargs)
        made, planned = self.steps(strategy)
        half = 2 * self.rounds * (made + 1) // planned
        if half == 2 * self.rounds * made // planned or made + 1 >= planned:
            return
        projections = projections_of(strategy.model)
        if half % 2:
            self._kept = [self._columns(strategy, p) for p in projections]
        elif self._kept:
            share = 1 - (1 - self.share) * (1 + math.cos(math.pi * made / planned)) / 2
            for i, p in enumerate(projections):
                self._overwrite(strategy, p, i, share)
            self._kept = []

    @torch.no_grad()
    def on_direction_end(self, strategy: Any, **kwargs: Any) -> None:
        """Multiplies the importance into ``B``; should the task go on, it does so with equal scores."""
        super().on_direction_end(strategy, **kwargs)
        self.scores = [torch.zeros_like(s) for s in self.scores]
        self._kept = []

    def _overwrite(self, strategy: Any, p: Projection, index: int, share: float) -> None:
        s = self.scores[index]
        weak, strong = weakest_and_strongest(s.softmax(0), share)
        for name, past in self._kept[index].items():
            present = self._live(strategy, p, name)
            if name.startswith("A"):
                present[weak] = past.to(present)[strong]
            else:
                present[:, weak] = past.to(present)[:, strong]
        s[weak] = s[strong] - math.log(2)
        s[strong] -= math.log(2)
        p.scale[len(p.bank_A) :] = len(s) * s.softmax(0)

    def _columns(self, strategy: Any, p: Projection) -> dict[str, Tensor]:
        """Copies of the factors and of the optimizer's numbers for them, by the names that :meth:`_live` reads."""
        state = strategy.optimizer.state
        names = [
            *("A", "B"),
            *(f"{f}.{key}" for f in "AB" for key, t in state.get(getattr(p, f), {}).items() if _like(t, getattr(p, f))),
        ]
        return {name: self._live(strategy, p, name).detach().clone() for name in names}

    @staticmethod
    def _live(strategy: Any, p: Projection, name: str) -> Tensor:
        factor, _, key = name.partition(".")
        parameter: Tensor = getattr(p, factor)
        return strategy.optimizer.state[parameter][key] if key else parameter


def _like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape
