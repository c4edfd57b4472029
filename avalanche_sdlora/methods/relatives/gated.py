"""A learned number for each column of an open direction, which the two methods that weigh columns share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.relative import RelativePlugin, rate_of

#: Of Adam's running means, as torch has them.
BETAS = (0.9, 0.999)


class GatedPlugin(RelativePlugin):
    """A direction ``B diag(g) A`` whose gate ``g (r,)`` trains beside the factors.

    While a task is learned the gate is the ``scale`` of the direction's columns, whose gradient autograd gives. It
    makes steps of Adam by the learning rate of the factors, whatever the optimizer of these: the loss hardly depends on
    one column, so that the plain gradient's steps leave a gate where it began. When the task ends the gate is
    multiplied into ``B``: files and merged weights hold plain factors.
    """

    without: ClassVar[tuple[str, ...]] = ("path", "later_path")  # which measure steps of the factors alone

    def __init__(self) -> None:
        super().__init__()
        self._means: list[Tensor] = []  # for each projection Adam's mean (r,) of the gradient
        self._squares: list[Tensor] = []  # and of its square
        self._stepped = 0  # how many steps they are the means of

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Starts Adam anew."""
        self._means = [p.scale.new_zeros(len(p.A)) for p in projections_of(strategy.model)]
        self._squares = [torch.zeros_like(mean) for mean in self._means]
        self._stepped = 0

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
        self._stepped += 1
        for i, p in enumerate(projections_of(strategy.model)):
            if len(p.A) and p.scale.grad is not None:
                R = len(p.bank_A)
                p.scale[R:] = self.stepped(p, i, p.scale[R:], p.scale.grad[R:], rate_of(strategy, p.A))

    def adam(self, index: int, gradient: Tensor) -> Tensor:
        """The direction of Adam's step (Kingma and Ba, ICLR 2015, algorithm 1), to be called once in each step.

        Args:
            index: The number of the projection.
            gradient: By the numbers that are learned, ``(r,)``.

        Returns:
            ``(r,)``, to be multiplied by the rate and subtracted.
        """
        mean, square = self._means[index].to(gradient), self._squares[index].to(gradient)
        self._means[index] = mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        self._squares[index] = square = BETAS[1] * square + (1 - BETAS[1]) * gradient.square()
        mean, square = mean / (1 - BETAS[0] ** self._stepped), square / (1 - BETAS[1] ** self._stepped)
        return mean / (square.sqrt() + 1e-8)

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
