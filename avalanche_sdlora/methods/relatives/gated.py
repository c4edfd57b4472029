"""A learned number for each column of an open direction, which the two methods that weigh columns share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.relative import RelativePlugin, rate_of


class GatedPlugin(RelativePlugin):
    """A direction ``B diag(g) A`` whose gate ``g (r,)`` trains beside the factors.

    While a task is learned the gate is the ``scale`` of the direction's columns, whose gradient autograd gives. It
    steps by the learning rate of the factors, without momentum. When the task ends it is multiplied into ``B``: files
    and merged weights hold plain factors.
    """

    without: ClassVar[tuple[str, ...]] = ("path", "later_path")  # which measure steps of the factors alone

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Starts the gates of directions that begin, and counts them as trained."""
        super().before_training_exp(strategy, num_workers, **kwargs)
        strategy.model.trained_beside = sum(len(p.A) for p in projections_of(strategy.model))

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Lets autograd find the gradient of the gates."""
        for p in projections_of(strategy.model):
            p.scale.requires_grad_(True)
            p.scale.grad = None

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Steps the gates."""
        for i, p in enumerate(projections_of(strategy.model)):
            if len(p.A) and p.scale.grad is not None:
                R = len(p.bank_A)
                p.scale[R:] = self.stepped(p, i, p.scale[R:], p.scale.grad[R:], rate_of(strategy, p.A))

    @abstractmethod
    def stepped(self, projection: Projection, index: int, gate: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """The gate ``(r,)`` after a step.

        Args:
            projection: The model's ``index``-th.
            index: Its number.
            gate: Before the step, ``(r,)``.
            gradient: Of the loss, ``(r,)``.
            rate: Learning rate.
        """

    @torch.no_grad()
    def on_direction_end(self, strategy: Any, **kwargs: Any) -> None:
        """Multiplies the gates into ``B`` and drops the columns whose gate is 0; the function stays as it is."""
        for p in projections_of(strategy.model):
            R = len(p.bank_A)
            p.scale = p.scale.detach()
            gate = p.scale[R:].clone()
            kept = gate != 0
            p.scale[R:] = 1.0
            if len(p.A):
                p.set_current(p.A[kept], (p.B * gate)[:, kept])
