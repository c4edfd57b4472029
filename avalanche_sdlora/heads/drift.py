"""How features have moved while a task was learned, and the way back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from avalanche_sdlora.heads.ridge import solve_ridge


class DriftMap(NamedTuple):
    """``x -> W x + b``: features before the task to those after it."""

    weight: Tensor  # W (d, d)
    bias: Tensor  # b (d,)
    penalty: float


class DriftMoments(nn.Module):
    """First and second moments of images' features before (``x``) and after (``z``) a task, in float64.

    Sums over samples, as :class:`avalanche_sdlora.heads.statistics.FeatureStatistics`: ``8 (2 d^2 + 2 d + 2)`` bytes.

    Args:
        features: Size ``d`` of a feature.
    """

    n: Tensor
    sums: Tensor
    moments: Tensor
    spread: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, features, dtype=torch.float64))  # of x and of v = z - x
        self.register_buffer("moments", torch.zeros(2, features, features, dtype=torch.float64))  # xx, vx
        self.register_buffer("spread", torch.zeros((), dtype=torch.float64))  # ||v||^2

    @torch.no_grad()
    def update(self, before: Tensor, after: Tensor) -> None:
        """Adds the features ``(n, d)`` of some images, before and after.

        Raises:
            ValueError: The shapes do not fit, or a feature is not finite.
        """
        if before.shape != after.shape or before.dim() != 2 or before.shape[1] != self.sums.shape[1]:
            raise ValueError(
                f"before, after: expected two of shape (n, {self.sums.shape[1]}), got {tuple(before.shape)} and "
                f"{tuple(after.shape)}: both must be of the same images"
            )
        x = before.to(self.sums)
        v = after.to(self.sums) - x  # its moments keep their digits where little has moved
        if not torch.isfinite(v).all():
            raise ValueError("before, after: a feature is NaN or infinite; nothing has been added")
        self.n += len(x)
        self.sums += torch.stack([x.sum(0), v.sum(0)])
        self.moments += torch.stack([x.T @ x, v.T @ x])
        self.spread += v.square().sum()

    def fit(self) -> DriftMap:
        """The affine map by least squares, shrunk towards the identity.

        The movement ``v = z - x`` is regressed on ``x`` with the penalty that generalised cross-validation chooses on
        the task's images, so that without evidence for more the map shifts all features by the mean movement:
        ``W = I + D``, ``D = argmin sum ||v_i - D x_i - b||^2 + penalty ||D||_F^2``. The linear operator of SLDC (Rao et
        al., AAAI 2026, arXiv 2511.09926) is this regression with a fixed penalty.

        Raises:
            ValueError: There are fewer than two samples.
        """
        if self.n < 2:
            raise ValueError(f"moments: of {int(self.n)} samples; a drift map needs at least two")
        mean_x, mean_v = self.sums / self.n
        xx = self.moments[0] - self.n * torch.outer(mean_x, mean_x)
        vx = self.moments[1] - self.n * torch.outer(mean_v, mean_x)
        spread = self.spread - self.n * mean_v.square().sum()
        inverse = solve_ridge(xx, vx, spread, self.n, self.moments[0].trace())
        D = inverse.times(vx)
        weight = torch.eye(len(D), dtype=D.dtype, device=D.device) + D
        return DriftMap(weight, mean_v - D @ mean_x, inverse.penalty)


class Frame(nn.Module):
    """The coordinates that features had at first: ``x -> A x + c`` takes those of the present model back.

    Sums over features that have moved to ``W x + b`` could be carried along, means to ``W m + b``, covariances to
    ``W S W^T`` (SLDC does so). Sums over a nonlinear expansion could not. So what moves here is the frame,
    ``A <- A W^-1`` and ``c <- c - A W^-1 b``: statistics gathered in it stay as they are, and features are brought to
    them. For classifiers that do not depend on the coordinates the two ways agree. Neither corrects movements that the
    map does not describe.

    Features of several parts, which move each in its own way, have a map for each: so few images as a task has say
    little of how one part depends on another.

    Args:
        features: Size ``D`` of a feature.
        parts: The number of its parts, all of size ``d``; the state takes ``8 D (d + 1)`` bytes.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, parts: int = 1) -> None:
        super().__init__()
        own = torch.eye(features // parts, dtype=torch.float64)
        self.parts = parts
        self.register_buffer("weight", own.repeat(parts, 1))  # (D, d), A of every part under each other
        self.register_buffer("bias", torch.zeros(features, dtype=torch.float64))  # (D,), c

    @torch.no_grad()
    def follow(self, *drifts: DriftMap) -> None:
        """Adapts the frame to features whose parts have moved by ``drifts``, so that they keep their coordinates.

        A map that is singular in float32 has sent many features to one. The inverse then gives the least of them, in
        norm (the pseudo-inverse).
        """
        for A, c, drift in zip(self.weight.chunk(self.parts), self.bias.chunk(self.parts), drifts, strict=True):
            A.copy_(A @ torch.linalg.pinv(drift.weight, rtol=1e-6))
            c -= A @ drift.bias

    def matrix(self) -> Tensor:
        """``A (D, D)`` of all parts together."""
        return torch.block_diag(*self.weight.chunk(self.parts))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, D)`` of the present model in the first coordinates, ``(n, D)``."""
        A, c = self.weight.to(x.dtype).chunk(self.parts), self.bias.to(x.dtype).chunk(self.parts)
        return torch.cat([torch.nn.functional.linear(*part) for part in zip(x.chunk(self.parts, 1), A, c)], dim=1)
