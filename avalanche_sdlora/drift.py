"""How features have moved while a task was learned, and old statistics moved along with them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from avalanche_sdlora.ridge import solve_ridge
from avalanche_sdlora.statistics import FeatureStatistics


class DriftMap(NamedTuple):
    """``x -> W x + b + e``: features before the task to those after it, with ``Cov(e) = R``."""

    weight: Tensor  # W (d, d)
    bias: Tensor  # b (d,)
    residual: Tensor  # R (d, d)
    penalty: float


class DriftMoments(nn.Module):
    """First and second moments of the same images' features before (``x``) and after (``z``) a task, in float64.

    Sums over samples, as :class:`avalanche_sdlora.statistics.FeatureStatistics`: ``8 (3 d^2 + 2 d + 1)`` bytes.

    Args:
        features: Size ``d`` of a feature.
    """

    n: Tensor
    sums: Tensor
    moments: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, features, dtype=torch.float64))  # of x and of v = z - x
        self.register_buffer("moments", torch.zeros(3, features, features, dtype=torch.float64))  # xx, vx, vv

    @torch.no_grad()
    def update(self, before: Tensor, after: Tensor) -> None:
        """Adds the features ``(n, d)`` of some images, before and after.

        Raises:
            ValueError: The shapes do not fit.
        """
        if before.shape != after.shape or before.dim() != 2 or before.shape[1] != self.sums.shape[1]:
            raise ValueError(
                f"before, after: expected two of shape (n, {self.sums.shape[1]}), got {tuple(before.shape)} and "
                f"{tuple(after.shape)}: both must be of the same images"
            )
        x = before.to(self.sums)
        v = after.to(self.sums) - x  # its moments keep their digits where little has moved
        self.n += len(x)
        self.sums += torch.stack([x.sum(0), v.sum(0)])
        self.moments += torch.stack([x.T @ x, v.T @ x, v.T @ v])

    def fit(self) -> DriftMap:
        """The affine map by least squares, shrunk towards the identity.

        The movement ``v = z - x`` is regressed on ``x`` with the penalty that generalised cross-validation chooses on
        the task's images, so that without evidence for more the map is a shift of everything by the mean movement:
        ``W = I + D``, ``D = argmin sum ||v_i - D x_i - b||^2 + penalty ||D||_F^2``. The linear operator of SLDC (Rao et
        al., AAAI 2026, arXiv 2511.09926) is the same regression with a fixed penalty.

        Raises:
            ValueError: There are fewer than two samples.
        """
        if self.n < 2:
            raise ValueError(f"moments: of {int(self.n)} samples; a drift map needs at least two")
        mean_x, mean_v = self.sums / self.n
        xx = self.moments[0] - self.n * torch.outer(mean_x, mean_x)
        vx = self.moments[1] - self.n * torch.outer(mean_v, mean_x)
        vv = self.moments[2] - self.n * torch.outer(mean_v, mean_v)
        D, penalty, freedom = solve_ridge(xx, vx, vv.trace(), self.n)
        left = vv - D @ vx.T - vx @ D.T + D @ xx @ D.T  # sum of e e^T
        weight = torch.eye(len(D), dtype=D.dtype, device=D.device) + D
        return DriftMap(weight, mean_v - D @ mean_x, (left + left.T) / (2 * freedom), penalty)


@torch.no_grad()
def transport(statistics: FeatureStatistics, drift: DriftMap) -> None:
    """Carries statistics through a drift map, in place.

    With ``z = W x + b + e``, where ``e`` has mean 0, covariance ``R`` and does not depend on ``x`` or its class, the
    sums over ``n`` samples become, in expectation::

        sum_c z     = W (sum_c x) + n_c b
        sum z z^T   = W (sum x x^T) W^T + (W s) b^T + b (W s)^T + n b b^T + n R,   s = sum x

    Counts stay as they are. ``n R`` is the spread that the map itself takes away: without it the transported features
    would lie closer together than any features do. It is estimated on the images of the present task, and so right as
    far as what the map cannot say of old classes is of the same size as for new ones.
    """
    W, b = drift.weight, drift.bias
    n = statistics.counts.sum()
    moved = W @ statistics.sums.sum(0)
    shift = torch.outer(moved, b)
    second = W @ statistics.second @ W.T + shift + shift.T + n * (torch.outer(b, b) + drift.residual)
    statistics.replace("second", (second + second.T) / 2)
    statistics.replace("sums", statistics.sums @ W.T + statistics.counts[:, None] * b)
