"""Ridge regression in closed form from streaming statistics, on class indicators or on other targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_sdlora.heads.statistics import FeatureStatistics


class Ridge(NamedTuple):
    """A linear classifier: scores ``x W^T + b``, of which the largest wins."""

    weight: Tensor  # (classes, d), in the order of the statistics' labels
    bias: Tensor  # (classes,)
    penalty: float


class Centred(NamedTuple):
    """A regression on class indicators: moments of features and indicators about their means."""

    gram: Tensor  # (d, d)
    cross: Tensor  # (classes, d)
    mean: Tensor  # (d,)
    share: Tensor  # (classes,), the mean indicator
    spread: Tensor  # of the indicators, a scalar
    n: Tensor  # samples, a scalar
    size: Tensor  # sum ||x||^2 before it was centred, a scalar

    @classmethod
    def of(cls, statistics: FeatureStatistics) -> Centred:
        """The regression of :func:`fit_ridge`.

        Raises:
            ValueError: There is no sample.
        """
        n = statistics.counts.sum()
        if n < 1:
            raise ValueError("statistics: of no samples; a regression needs at least one")
        m = statistics.means  # (classes, d)
        share = torch.full_like(statistics.counts, 1 / len(m))
        mean = m.mean(0)
        cross = (n / len(m)) * (m - mean)
        gram = statistics.second.addr(-n * mean, mean)
        lacking = n / len(m) - statistics.counts  # (classes,), samples, of which there are none among equal classes
        others = lacking != 0
        if others.any():
            gram.addmm_(m[others].T * lacking[others], m[others])
        return cls(gram, cross, mean, share, n * (1 - share[0]), n, statistics.second.trace())

    def solve(self, penalty: float | None) -> Inverse:
        """:func:`solve_ridge` of these moments."""
        return solve_ridge(self.gram, self.cross, self.spread, self.n, self.size, penalty)


class Inverse(NamedTuple):
    """``(gram + penalty I)^-1``: by a Cholesky factor, or by eigenvectors and what each is multiplied by."""

    penalty: float
    factor: Tensor  # (d, d), lower triangular; or eigenvectors in its columns
    shrunk: Tensor | None = None  # (d,), of the eigenvectors

    def times(self, rows: Tensor) -> Tensor:
        """``rows (k, d)`` times the inverse, ``(k, d)``: of the sums ``sum t x^T (k, d)`` it makes the weights."""
        if self.shrunk is None:
            return torch.cholesky_solve(rows.T, self.factor).T
        return (rows @ self.factor * self.shrunk) @ self.factor.T


def fit_ridge(statistics: FeatureStatistics, penalty: float | None = None) -> Ridge:
    """``argmin_{W, b} sum_c (n / C n_c) sum_{i: y_i = c} ||W x_i + b - e_c||^2 + penalty ||W||_F^2``.

    Every class has the weight of ``n / C`` samples, however many of the ``n`` are its own, so that a class with a
    hundred times the images of the others does not swallow them. Its second moments are taken about its mean, where
    the classes share those of all samples (as linear discriminants do), and from its mean. For classes of equal size
    that is ordinary ridge regression, exactly. Features and indicators are centred, which leaves the intercept
    unpenalised.

    Args:
        statistics: Of at least one sample.
        penalty: Above 0; None: chosen by generalised cross-validation, see :func:`solve_ridge`.

    Raises:
        ValueError: There is no sample, or ``penalty`` is out of range.
    """
    regression = Centred.of(statistics)
    inverse = regression.solve(penalty)
    weight = inverse.times(regression.cross)
    return Ridge(weight, regression.share - weight @ regression.mean, inverse.penalty)


def ridge_scores(statistics: FeatureStatistics, x: Tensor, penalty: float | None = None) -> tuple[Tensor, float]:
    """The scores ``(n, classes)`` that :func:`fit_ridge` gives to ``x (n, d)``, and its penalty.

    The weights, of which there are as many as classes, are not made: time grows with the classes by ``n d`` each, where
    a weight takes ``d^2``.

    Args:
        statistics: As for :func:`fit_ridge`.
        x: Of the type of the statistics.
        penalty: As for :func:`fit_ridge`.

    Raises:
        ValueError: As :func:`fit_ridge`.
    """
    regression = Centred.of(statistics)
    inverse = regression.solve(penalty)
    return regression.share + inverse.times(x - regression.mean) @ regression.cross.T, inverse.penalty


def solve_ridge(
    gram: Tensor, cross: Tensor, spread: Tensor, n: Tensor, size: Tensor, penalty: float | None = None
) -> Inverse:
    """What gives ``argmin_W sum_i ||W x_i - t_i||^2 + penalty ||W||_F^2`` for centred ``x_i`` and ``t_i``.

    The penalty is chosen by generalised cross-validation on these statistics (Golub, Heath and Wahba, Technometrics
    1979): with the eigenvalues ``s`` of ``gram`` it minimises ``RSS / (n - df)^2``, ``df = 1 + sum s / (s + penalty)``,
    over 161 values from ``1e-10`` to ``1e6`` times the mean eigenvalue, and takes the largest of those that are alike.
    Where all samples have equal leverage, that is the squared error of leave-one-out up to a factor.

    Args:
        gram: ``sum x x^T (d, d)``.
        cross: ``sum t x^T (k, d)``.
        spread: ``sum ||t||^2``, a scalar.
        n: Number of samples, a scalar; one degree of freedom went into the means.
        size: ``sum ||x||^2`` before ``x`` was centred, a scalar. A direction in which less than the rounding of such
            sums is left has weight 0.
        penalty: Above 0; None: chosen as above.

    Returns:
        The inverse, which times ``cross`` is ``W (k, d)``.

    Raises:
        ValueError: ``penalty`` is out of range.
    """
    if penalty is not None and not penalty > 0:
        raise ValueError(f"penalty={penalty!r}: expected a number above 0, or None")
    if penalty is not None and penalty > 100 * rounding(size):  # then no direction is lost in rounding
        gram = gram.clone()
        gram.diagonal().add_(penalty)
        return Inverse(float(penalty), torch.linalg.cholesky(gram))
    s, V = torch.linalg.eigh(gram)
    varies = s > rounding(size)
    s = torch.where(varies, s, 0)
    candidates = torch.logspace(-10, 6, 161, dtype=s.dtype, device=s.device) * s.mean()
    if penalty is not None:
        candidates = s.new_tensor([penalty])
    candidates = candidates.clamp(min=1e-100)  # features that are all alike; its inverse squared is still a number
    shrunk = 1 / (s + candidates[:, None])  # (candidates, d)
    z = torch.where(varies, cross @ V, 0)  # (k, d)
    explained = z.square().sum(0) / torch.where(varies, s, 1)  # (d,), without a penalty
    # The residual no weight explains, plus the cost of the penalty: only one difference of large numbers.
    residual = (spread - explained.sum()).clamp(min=0) + (candidates[:, None] * shrunk).square() @ explained
    freedom = n - 1 - (shrunk * s).sum(1)
    # Without a degree of freedom left nothing can be said of a candidate.
    score = torch.where(freedom > 1e-6 * n, residual / freedom.square(), torch.inf)
    best = int((score <= score.min() * (1 + 1e-9)).nonzero()[-1])
    return Inverse(float(candidates[best]), V, torch.where(varies, shrunk[best], 0))


def rounding(size: Tensor) -> Tensor:
    """The rounding error of sums of squares of total ``size``, in the precision of ``size``."""
    return 10 * torch.finfo(size.dtype).eps * size
