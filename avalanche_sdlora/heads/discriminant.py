"""Classifiers from class means: nearest mean, and linear discriminants with a shared covariance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_sdlora.heads.ridge import rounding
from avalanche_sdlora.heads.statistics import FeatureStatistics


class Linear(NamedTuple):
    """A linear classifier: scores ``x W^T + b``, of which the largest wins."""

    weight: Tensor  # (classes, d), in the order of the statistics' labels
    bias: Tensor  # (classes,)


def fit_ncm(statistics: FeatureStatistics) -> Linear:
    """Nearest class mean by cosine: ``w_c = m_c / ||m_c||`` (Zhou et al., IJCV 2024, arXiv 2303.07338).

    A feature's own length is common to all its scores, so it is left out. Rows are centred: that takes the same number
    from all scores of a feature.
    """
    weight = torch.nn.functional.normalize(statistics.means, dim=1)
    return Linear(weight - weight.mean(0), weight.new_zeros(len(weight)))


def fit_lda(statistics: FeatureStatistics) -> Linear:
    """Linear discriminants with one covariance for all classes, which are equally likely beforehand.

    ``w_c = S^-1 m_c`` and ``b_c = -m_c^T S^-1 m_c / 2``, centred over the classes, so that softmax gives the
    posterior (streaming as in Hayes and Kanan, CVPR Workshops 2020, arXiv 1909.01520). ``S`` is
    :func:`shrunk_covariance` of the features about their class means; where no class varies, the identity, so that the
    nearest mean wins.
    """
    m = statistics.means  # (classes, d)
    freedom = float(statistics.counts.sum()) - len(m)
    scatter = statistics.second - (statistics.sums.T / statistics.counts) @ statistics.sums
    if freedom < 1 or scatter.trace() <= rounding(statistics.second.trace()):
        scatter, freedom = torch.zeros_like(scatter), 1.0
    weight = torch.linalg.solve(shrunk_covariance(scatter / freedom, freedom), m.T).T
    bias = -(weight * m).sum(1) / 2
    return Linear(weight - weight.mean(0), bias - bias.mean())


def shrunk_covariance(S: Tensor, n: float) -> Tensor:
    """``(1 - rho) S + rho tr(S) / d I`` with the oracle approximating shrinkage.

    ``rho`` is that of Chen, Wiesel, Eldar and Hero (IEEE Transactions on Signal Processing 2010, equation 23)::

        rho = ((1 - 2/d) tr(S^2) + tr(S)^2) / ((n + 1 - 2/d) (tr(S^2) - tr(S)^2 / d)),   at most 1

    Args:
        S: A sample covariance ``(d, d)``.
        n: Its degrees of freedom.
    """
    d = len(S)
    trace, squared = S.trace(), S.square().sum()
    numerator = (1 - 2 / d) * squared + trace.square()
    denominator = (n + 1 - 2 / d) * (squared - trace.square() / d)
    rho = torch.where(denominator > 0, numerator / denominator, 1.0).clamp(max=1)
    # Features that never vary have no shape to shrink towards; any positive multiple of the identity serves.
    level = torch.where(trace > 0, trace / d, 1.0)
    return (1 - rho) * S + rho * level * torch.eye(d, dtype=S.dtype, device=S.device)
