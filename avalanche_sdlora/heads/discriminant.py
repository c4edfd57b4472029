"""Classifiers from class means: nearest mean, and linear discriminants with a shared covariance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_sdlora.heads.noise import length_of_noise
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


def fit_lda(statistics: FeatureStatistics, counts: Tensor | None = None) -> Linear:
    """Linear discriminants with one covariance for all classes, which are equally likely beforehand.

    ``w_c = S^-1 m_c`` and ``b_c = -m_c^T S^-1 m_c / 2``, centred over the classes, so that softmax gives the
    posterior (streaming as in Hayes and Kanan, CVPR Workshops 2020, arXiv 1909.01520). ``S`` is that of
    :func:`shrinkage` of the features about their class means; where no class varies, the identity, so that the
    nearest mean wins. Means ``m_c`` of few samples beside others of many are those of :func:`steadied`.

    Args:
        statistics: Of at least one sample.
        counts: ``(classes,)``, how many samples a mean counts as; None: as many as there are.
    """
    m = statistics.means  # (classes, d)
    freedom = float(statistics.counts.sum()) - len(m)
    scatter = statistics.second - (statistics.sums.T / statistics.counts) @ statistics.sums
    if freedom < 1 or scatter.trace() <= rounding(statistics.second.trace()):
        scatter, freedom = torch.zeros_like(scatter), 1.0
    covariance = scatter / freedom
    scale, level = shrinkage(covariance, freedom)
    S = scale * covariance + level * torch.eye(len(covariance), dtype=m.dtype, device=m.device)
    weight = torch.linalg.solve(S, m.T).T
    counts = statistics.counts if counts is None else counts
    if counts.min() < counts.max():
        m, weight = steadied(m, weight, counts, length_of_noise(covariance, scale, level, freedom))
    bias = -(weight * m).sum(1) / 2
    return Linear(weight - weight.mean(0), bias - bias.mean())


def steadied(m: Tensor, weight: Tensor, counts: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Class means of few samples, brought nearer to the mean of all by as much as they are noise.

    The mean of ``n_c`` samples lies by ``noise / n_c`` farther from the others than its class does, in the square, so
    that classes of few samples win too little; among many such classes one lies near to a sample by chance, and they
    win too much. If classes lie about their mean by ``signal`` on average, the best guess of where a class lies is
    ``signal / (signal + noise / n_c)`` of its way from there (empirical Bayes: Efron and Morris, Journal of the
    American Statistical Association 1973). Here the class of most samples stays where it is: among classes of equal
    size nothing changes.

    Args:
        m: The means ``(classes, d)``.
        weight: ``m S^-1``, as large; lengths are ``x^T S^-1 x``.
        counts: ``n_c (classes,)``.
        noise: Expected length of a sample's deviation from its class's mean.

    Returns:
        The new means, and these times ``S^-1``; as they were where nothing is known of the noise.
    """
    if not 0 < noise < torch.inf:
        return m, weight
    centre, direction = m.mean(0), weight.mean(0)
    few, classes = noise / counts, len(m)
    by_chance = (1 - 2 / classes) * few + few.mean() / classes  # of the length about the mean of all means
    lengths = ((m - centre) * (weight - direction)).sum(1) - by_chance
    signal = lengths.clamp(min=0).mean()
    for _ in range(20):  # each class counts by how well it is known, which the signal itself says
        certainty = (signal + few) ** -2
        signal = ((certainty * lengths).sum() / certainty.sum()).clamp(min=1e-9 * few.max())
    share = signal / (signal + few)
    share = (share / share.max())[:, None]
    return centre + share * (m - centre), direction + share * (weight - direction)


def shrinkage(S: Tensor, n: float) -> tuple[float, float]:
    """``1 - rho`` and ``rho tr(S) / d``, for ``(1 - rho) S + rho tr(S) / d I`` with the oracle approximating shrinkage.

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
    rho = float(torch.where(denominator > 0, numerator / denominator, 1.0).clamp(max=1))
    # Features that never vary have no shape to shrink towards; any positive multiple of the identity serves.
    return 1 - rho, rho * (float(trace) / d if trace > 0 else 1.0)
