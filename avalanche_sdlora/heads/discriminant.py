"""Classifiers from class means: nearest mean, and linear discriminants with a shared covariance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_sdlora.heads.noise import length_of_noise
from avalanche_sdlora.heads.ridge import LEAST_LEFT, rounding
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
    lda = _discriminants(statistics, counts)
    bias = -(lda.weight * lda.means).sum(1) / 2
    return Linear(lda.weight - lda.weight.mean(0), bias - bias.mean())


class _Discriminants(NamedTuple):
    """What linear discriminants are made from."""

    means: Tensor  # m (classes, d)
    weight: Tensor  # m S^-1 (classes, d)
    kept: Tensor  # (classes,), how much of the way from the mean of all each mean has kept, see steadied
    factors: tuple[Tensor, Tensor]  # of S (d, d), by torch.linalg.lu_factor
    scatter: float  # how often the sum of outer products of deviations is in S


def _discriminants(statistics: FeatureStatistics, counts: Tensor | None) -> _Discriminants:
    m = statistics.means
    freedom = float(statistics.counts.sum()) - len(m)
    scatter = statistics.second - (statistics.sums.T / statistics.counts) @ statistics.sums
    if freedom < 1 or scatter.trace() <= rounding(statistics.second.trace()):
        scatter, freedom = torch.zeros_like(scatter), 1.0
    covariance = scatter / freedom
    scale, level = shrinkage(covariance, freedom)
    S = scale * covariance + level * torch.eye(len(covariance), dtype=m.dtype, device=m.device)
    factors = torch.linalg.lu_factor(S)
    weight = torch.linalg.lu_solve(*factors, m.T).T
    counts, kept = statistics.counts if counts is None else counts, torch.ones_like(statistics.counts)
    if counts.min() < counts.max():
        m, weight, kept = steadied(m, weight, counts, length_of_noise(covariance, scale, level, freedom))
    return _Discriminants(m, weight, kept, factors, scale / freedom)


def lda_without(statistics: FeatureStatistics, x: Tensor, own: Tensor, counts: Tensor | None = None) -> Tensor:
    """The scores of samples by linear discriminants without the one that is scored, each less its sample's mean.

    Without ``x`` its class's mean is ``m_c - (x - m_c) / (n_c - 1)``, and the scatter about it less by ``n_c / (n_c -
    1)`` times the outer product of ``u = x - m_c``, which the formula of Sherman and Morrison takes from the inverse.
    Shrinkage, degrees of freedom and how far means are steadied are those of all.

    Args:
        statistics: As for :func:`fit_lda`.
        x: ``(n, d)``, samples that are in the statistics.
        own: ``(n,)``, the index of each one's class, which has at least one more.
        counts: As for :func:`fit_lda`.

    Returns:
        ``(n, classes)``.
    """
    m, weight, kept, factors, scatter = _discriminants(statistics, counts)
    n_c = statistics.counts[own]
    u = x - statistics.means[own]
    Pu = torch.linalg.lu_solve(*factors, u.T).T
    uu, xu = (u * Pu).sum(1), (x * Pu).sum(1)
    moved = kept[own] / (n_c - 1)
    removed = scatter * n_c / (n_c - 1)
    gained = (removed / (1 - removed * uu).clamp(min=LEAST_LEFT))[:, None]
    # What a mean m_k gives with x, with itself and with u, in the metric of all; the own class's has moved.
    mx, mm, mu = x @ weight.T, (weight * m).sum(1).repeat(len(x), 1), u @ weight.T
    place = own[:, None]
    own_mu = mu.gather(1, place)[:, 0]
    mx = mx.scatter_add(1, place, -(moved * xu)[:, None])
    mm = mm.scatter_add(1, place, (moved.square() * uu - 2 * moved * own_mu)[:, None])
    mu = mu.scatter_add(1, place, -(moved * uu)[:, None])
    scores = mx - mm / 2 + gained * mu * (xu[:, None] - mu / 2)
    return scores - scores.mean(1, keepdim=True)


def ncm_without(statistics: FeatureStatistics, x: Tensor, own: Tensor) -> Tensor:
    """The scores of samples by nearest class means without the one that is scored, each less its sample's mean.

    Args:
        statistics: As for :func:`fit_ncm`.
        x: As for :func:`lda_without`.
        own: As for :func:`lda_without`.

    Returns:
        ``(n, classes)``.
    """
    m = statistics.means
    rest = m[own] - (x - m[own]) / (statistics.counts[own, None] - 1)
    scores = x @ torch.nn.functional.normalize(m, dim=1).T
    scores = scores.scatter(1, own[:, None], (x * torch.nn.functional.normalize(rest, dim=1)).sum(1, keepdim=True))
    return scores - scores.mean(1, keepdim=True)


def steadied(m: Tensor, weight: Tensor, counts: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
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
        The new means, and these times ``S^-1``, as they were where nothing is known of the noise; and the share
        ``(classes,)`` of its way from the mean of all that each has kept.
    """
    if not 0 < noise < torch.inf:
        return m, weight, torch.ones_like(counts)
    centre, direction = m.mean(0), weight.mean(0)
    few, classes = noise / counts, len(m)
    by_chance = (1 - 2 / classes) * few + few.mean() / classes  # of the length about the mean of all means
    lengths = ((m - centre) * (weight - direction)).sum(1) - by_chance
    signal = lengths.clamp(min=0).mean()
    for _ in range(20):  # each class counts by how well it is known, which the signal itself says
        certainty = (signal + few) ** -2
        signal = ((certainty * lengths).sum() / certainty.sum()).clamp(min=1e-9 * few.max())
    share = signal / (signal + few)
    share = share / share.max()
    far = share[:, None]
    return centre + far * (m - centre), direction + far * (weight - direction), share


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
