"""The classifiers in closed form: what each is made from, and how it is solved."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from avalanche_sdlora.heads.discriminant import fit_lda, fit_ncm
from avalanche_sdlora.heads.ridge import fit_ridge, ridge_scores
from avalanche_sdlora.heads.statistics import FeatureStatistics

#: Kinds of classifiers in closed form, the best to be expected first.
KINDS = ("random_ridge", "lda", "ridge", "ncm")


class Solved(NamedTuple):
    """A linear classifier of ``D`` features: scores ``x W^T + b``."""

    weight: Tensor  # (classes, D), in the order of the statistics' labels
    bias: Tensor  # (classes,)
    penalty: float | None = None  # of a ridge regression


class Candidate(NamedTuple):
    """A classifier that may be chosen.

    Attributes:
        kind: One of :data:`KINDS`; or several with a plus between them, for a mixture.
        units: Of the random expansion, the first so many; 0: the features themselves.
        parts: The places, among all candidates, of those that a mixture is made of: one of the expansion, then two of
            the features. Its scores are the sum of theirs, each divided by its temperature, so that its probabilities
            are the product of theirs. The first two err on different images and so correct each other; where features
            have moved, discriminants lose what the expansion keeps or the other way round. The last counts by
            :func:`unevenness` alone: of a few images a mean is known better than anything else.
    """

    kind: str
    units: int = 0
    parts: tuple[int, int, int] | tuple[()] = ()

    @property
    def name(self) -> str:
        """The name that people read, ``lda`` or ``random_ridge (500 units)``."""
        return f"{self.kind} ({self.units} units)" if self.units else self.kind

    def inputs(self, features: int) -> int:
        """``D``, the inputs of the linear classifier, of which a mixture's last are the ``features`` themselves."""
        return self.units + (features if self.parts or not self.units else 0)

    def shares(self, counts: Tensor) -> dict[int, float]:
        """By the place of each part of a mixture that counts, how much it does; see :func:`unevenness`."""
        return {i: share for i, share in zip(self.parts, (1.0, 1.0, unevenness(counts))) if share}

    def solve(
        self, statistics: FeatureStatistics, penalty: float | None = None, counts: Tensor | None = None
    ) -> Solved:
        """The classifier, from statistics of the features or of all units of the expansion; not of a mixture.

        Args:
            statistics: Of at least one sample.
            penalty: Of a ridge regression, where it is known; None: chosen by generalised cross-validation.
            counts: ``(classes,)``, how many samples a mean counts as, for linear discriminants; None: as many as
                there are.
        """
        statistics = self._own(statistics)
        match self.kind:
            case "lda":
                return Solved(*fit_lda(statistics, counts))
            case "ncm":
                return Solved(*fit_ncm(statistics))
        return Solved(*fit_ridge(statistics, penalty))

    def scores(
        self,
        x: Tensor,
        statistics: FeatureStatistics,
        penalty: float | None = None,
        counts: Tensor | None = None,
    ) -> tuple[Tensor, float | None]:
        """The scores ``(n, classes)`` that the classifier of :meth:`solve` gives to ``x (n, D)``, and its penalty.

        Without weights of its classes, where that is possible: of a few samples and many classes it is quicker.

        Args:
            x: What its linear classifier takes.
            statistics: As for :meth:`solve`.
            penalty: As for :meth:`solve`.
            counts: As for :meth:`solve`.
        """
        if self.kind in ("ridge", "random_ridge"):
            return ridge_scores(self._own(statistics), x.to(statistics.second), penalty)
        weight, bias, penalty = self.solve(statistics, penalty, counts)
        return F.linear(x.to(weight), weight, bias), penalty

    def _own(self, statistics: FeatureStatistics) -> FeatureStatistics:
        """Those of its units."""
        return statistics.of_first(self.units) if self.units else statistics


def candidates(kind: str, expansion: int | None) -> tuple[Candidate, ...]:
    """What may be chosen, mixtures first.

    Args:
        kind: One of :data:`KINDS`, or "auto" for all of them and the mixture of the first two and the last.
        expansion: Units of the random expansion. None: 2000, or 500 of them where that is clearly better.
    """
    kinds = KINDS if kind == "auto" else (kind,)
    sizes = (2000, 500) if expansion is None else (expansion,)
    alone = tuple(Candidate(k, size) for k in kinds for size in (sizes if k == "random_ridge" else (0,)))
    if kind != "auto":
        return alone
    return Candidate("random_ridge + lda", sizes[0], (1, 1 + len(sizes), len(alone))), *alone


def unevenness(counts: Tensor) -> float:
    """How much classes differ in size, from 0, not at all, to 1: ``1 - harmonic mean / mean`` of their sizes.

    Args:
        counts: ``(classes,)``, above 0.
    """
    return 0.0 if counts.min() == counts.max() else 1 - float(1 / (counts.reciprocal().mean() * counts.mean()))
