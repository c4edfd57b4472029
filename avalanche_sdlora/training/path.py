"""How far the adapted weights may travel while an experience is learned: a step size that cannot run away."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora import stream
from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.heads.growing_head import GrowingHead
from avalanche_sdlora.model import SDLoRAModel

#: No single step changes the adapted weights by more than this share of their norm.
LARGEST_STEP = 0.02
#: No single step changes the linear head by more than this share of its norm.
LARGEST_HEAD_STEP = 0.1
#: Epochs over the first experience, at least.
FIRST_EPOCHS = 6
#: Steps that a path of :data:`LONG_PATH` or more needs at least; shorter ones need their share.
LEAST_STEPS, LONG_PATH = 100, 0.5
#: So many training images of an experience earn its whole path.
IMAGES_OF_A_PATH = 500
#: The share of the steps in which they grow; after it they shrink to nothing.
WARM_UP = 0.1


def profile(steps: int) -> list[float]:
    """The relative size of each of ``steps`` steps: a linear warm-up to 1, then a linear decline towards 0."""
    return [min(1.0, (i + 1) / max(1.0, WARM_UP * steps)) * (1 - i / steps) for i in range(steps)]


def path_of(path: float, images: int, parts: int = 1) -> float:
    """How far an experience of few images may go: with the square of their number, however often they are seen.

    Half as many images say half as much of where the features should go for all classes, those of later experiences
    among them, and of how the movement is to be followed.

    Args:
        path: Of an experience with at least :data:`IMAGES_OF_A_PATH` images.
        images: That are trained on.
        parts: Of an online stream's experience, of which ``images`` are one part's; they share one path.
    """
    return path / parts * min(1.0, images * parts / IMAGES_OF_A_PATH) ** 2


def steps_of(path: float) -> int:
    """The least number of steps that a path needs: in fewer, longer ones less is learned on its way.

    With large batches an epoch over a small task has few steps. On 100 classes of CIFAR-100 (540 images in the first of
    10 tasks, path 0.5, batch 128) 30, 60 and 110 steps of the first task end at 46.3, 51.8 and 55.9 %.
    """
    return math.ceil(LEAST_STEPS * min(1.0, path / LONG_PATH))


def first_epochs(config: SDLoRAConfig, images: int, batch_size: int) -> int:
    """The least number of epochs over the first experience, of ``images`` in steps of ``batch_size``."""
    if config.first_epochs != "auto":
        return config.first_epochs
    if config.path is None or not images:
        return FIRST_EPOCHS
    return max(FIRST_EPOCHS, math.ceil(steps_of(path_of(config.path, images)) / math.ceil(images / batch_size)))


class Epochs:
    """Lends the first experience its epochs, and gives the strategy its own number back.

    Attributes:
        planned: Epochs over the present experience.
    """

    def __init__(self) -> None:
        self.planned = 1
        self._own: int | None = None  # the strategy's, while the first experience has more

    def plan(self, strategy: Any, begun: bool) -> None:
        """Gives the first experience its epochs; one that has ``begun`` before is counted by the model already."""
        config = strategy.model.config
        if int(strategy.model.experiences) == int(begun) and not stream.is_part(strategy.experience):
            wanted = first_epochs(config, len(strategy.adapted_dataset), strategy.train_mb_size)
            if wanted > strategy.train_epochs:
                self._own, strategy.train_epochs = strategy.train_epochs, wanted
        self.planned = strategy.train_epochs

    def give_back(self, strategy: Any) -> None:
        """Gives the strategy its own number of epochs back, if it has another."""
        if self._own is not None:
            strategy.train_epochs, self._own = self._own, None


class PathLimit:
    """Shortens the steps of any optimizer, so that the sum of their sizes over an experience stays within a bound.

    The size of a step is ``sqrt(sum_p ||dW_p||_F^2 / sum_p ||W0_p||_F^2)`` over all projections ``p``: what it changes
    of the adapted weights, in units of the frozen ones. Each step may have its share of the ``path`` by
    :func:`profile`, and never more than :data:`LARGEST_STEP`; where the optimizer's own step is longer, all
    parameters of directions and magnitudes go only that part of its way. What counts is then the direction of a step.
    Learning rate, batch size, number of epochs and the scale of features and factors hardly matter any more, as long
    as the optimizer's own steps are not much too short, and a rate that would make training diverge cannot, unless it
    takes numbers out of their range.

    The change of a frozen direction's coefficients is counted as if the directions were orthogonal, which those of
    independent tasks all but are; that of the direction that trains is exact, from its factors.

    Args:
        model: The model, once the experience has begun.
        path: The bound, above 0.
        steps: The number of optimizer steps that are expected; later ones may have what the last had.
        beside: Linear heads that train beside the model's own, and are bounded as it is: none of their steps exceeds a
            share of their norm.
    """

    def __init__(self, model: SDLoRAModel, path: float, steps: int, beside: Sequence[GrowingHead] = ()) -> None:
        self.model = model
        self.heads = [model.head, *beside]
        shares = profile(max(1, steps))
        self.shares = shares
        self.limits = [min(LARGEST_STEP, path * share / sum(shares)) for share in shares]
        self.projections: list[tuple[Projection, int]] = []
        norms = []
        for adapter in (m for m in model.backbone.modules() if isinstance(m, SDLoRALinear)):
            for projection, column in zip(projections_of(adapter), adapter.columns):
                self.projections.append((projection, column))
                norms.append(torch.linalg.norm(adapter.base.weight[projection.start : projection.stop].double()))
        self.norm = torch.stack(norms).norm() if norms else None  # of all frozen weights that are adapted
        self._before: list[Tensor] = []

    def _parameters(self) -> list[Tensor]:
        factors = itertools.chain.from_iterable((p.A, p.B) for p, _ in self.projections)
        heads = itertools.chain.from_iterable((head.weight, head.bias) for head in self.heads)
        return [*factors, self.model.magnitudes.alpha, *heads]

    @torch.no_grad()
    def before_step(self) -> None:
        """Remembers where the parameters are."""
        self._before = [p.detach().clone() for p in self._parameters()]

    @torch.no_grad()
    def after_step(self, step: int) -> Tensor:
        """Shortens the step that has been made, the ``step``-th of the experience, counted from 0.

        Returns:
            Whether it is finite, a scalar that is not waited for. One that is not is taken back as a whole.
        """
        i = min(step, len(self.limits) - 1)
        pairs = list(zip(self._parameters(), self._before))
        finite = torch.stack([torch.isfinite(new).all() for new, _ in pairs]).all()
        adapted, heads = pairs[: -2 * len(self.heads)], pairs[-2 * len(self.heads) :]
        if self.norm is not None:
            size = self._change().sqrt() / self.norm
            _shorten(adapted, (self.limits[i] / size).clamp(max=1.0), finite)
        for weight, bias in zip(heads[::2], heads[1::2]):
            moved = torch.linalg.norm(weight[0] - weight[1])
            allowed = LARGEST_HEAD_STEP * self.shares[i] * torch.linalg.norm(weight[1])
            _shorten([weight, bias], (allowed / moved).clamp(max=1.0), finite)
        self._before = []
        return finite

    def _change(self) -> Tensor:
        """``sum_p ||dW_p||_F^2`` of the step just made, a float64 scalar."""
        *factors, alpha = self._before[: -2 * len(self.heads)]
        fixed = self.model.magnitudes.fixed
        old, new = (torch.cat([fixed, a]).double() for a in (alpha, self.model.magnitudes.alpha))  # (t, columns)
        total = old.new_zeros(())
        for (p, column), A0, B0 in zip(self.projections, factors[::2], factors[1::2]):
            a0, a1 = old[:, column], new[:, column]
            R = len(p.bank_A)
            if R:
                first = torch.ones(R, dtype=torch.bool, device=p.owner.device)
                first[1:] = p.owner[1:R] != p.owner[: R - 1]  # one column of each frozen direction
                owners, scale = p.owner[:R][first], p.scale[:R][first].double()
                total = total + ((a1 - a0)[owners] * scale).square().sum()
            if len(p.A):
                # a1 B1 A1 - a0 B0 A0 = (a1 B1 - a0 B0) A1 + a0 B0 (A1 - A0), from r-by-r products
                k = p.owner[R]  # a tensor, which is not waited for
                B = torch.cat([a1[k] * p.B.double() - a0[k] * B0.double(), a0[k] * B0.double()], dim=1)  # (out, 2 r)
                A = torch.cat([p.A.double(), p.A.double() - A0.double()])  # (2 r, in)
                total = total + ((B.T @ B) * (A @ A.T)).sum().clamp(min=0)
        return total


def _shorten(pairs: list[tuple[Tensor, Tensor]], share: Tensor, finite: Tensor) -> None:
    """Puts parameters back to where ``share`` of their way from the old value to the new one ends.

    A step that has no size, so that the share is not a number, stays as it is; one that is not ``finite`` is not made.
    """
    for new, old in pairs:
        part = torch.where(share < 1, old + share.to(old.dtype) * (new - old), new)
        new.copy_(torch.where(finite, part, old))
