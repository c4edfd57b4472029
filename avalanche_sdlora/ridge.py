"""Ridge regression on class indicators, in closed form from streaming statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_sdlora.statistics import FeatureStatistics


class Ridge(NamedTuple):
    """A linear classifier: scores ``x W^T + b``, of which the largest wins."""

    weight: Tensor  # (classes, d), in the order of the statistics' labels
    bias: Tensor  # (classes,)
    penalty: float


def fit_ridge(statistics: FeatureStatistics, penalty: float | None = None) -> Ridge:
    """``argmin_{W, b} sum_i ||W x_i + b - e_{y_i}||^2 + penalty ||W||_F^2`` over all samples summed up so far.

    Features and indicators are centred, which leaves the intercept unpenalised. The penalty is chosen by generalised
    cross-validation on the same statistics (Golub, Heath and Wahba, Technometrics 1979): with the eigenvalues ``s`` of
    the centred second moment it minimises ``RSS / (n - df)^2``, ``df = 1 + sum s / (s + penalty)``, over 161 values
    from ``1e-10`` to ``1e6`` times the mean eigenvalue.

    Args:
        statistics: Of at least two samples.
        penalty: Above 0; None: chosen as above.

    Raises:
        ValueError: There are fewer than two samples, or ``penalty`` is out of range.
    """
    n = statistics.counts.sum()
    if n < 2:
        raise ValueError(f"statistics: of {int(n)} samples; a regression needs at least two")
    if penalty is not None and not penalty > 0:
        raise ValueError(f"penalty={penalty!r}: expected a number above 0, or None")
    mean = statistics.sums.sum(0) / n  # (d,)
    share = statistics.counts / n  # (classes,), the mean indicator
    gram = statistics.second - n * torch.outer(mean, mean)  # (d, d)
    cross = statistics.sums - n * torch.outer(share, mean)  # (classes, d)
    s, V = torch.linalg.eigh(gram)
    s = s.clamp(min=0)
    z = cross @ V  # (classes, d)
    if penalty is None:
        candidates = torch.logspace(-10, 6, 161, dtype=s.dtype, device=s.device) * s.mean()
        candidates = candidates.clamp(min=torch.finfo(s.dtype).tiny)  # features that are all alike
        shrunk = 1 / (s + candidates[:, None])  # (candidates, d)
        energy = z.square().sum(0)  # (d,)
        spread = (statistics.counts * (1 - share)).sum()  # of the indicators
        residual = spread - 2 * (shrunk @ energy) + (shrunk.square() @ (s * energy))
        freedom = n - 1 - (shrunk * s).sum(1)
        # Without a degree of freedom left nothing can be said of a candidate.
        score = torch.where(freedom > 1e-6 * n, residual.clamp(min=0) / freedom.square(), torch.inf)
        penalty = float(candidates[score.argmin()])
    weight = (z / (s + penalty)) @ V.T
    return Ridge(weight, share - weight @ mean, penalty)
