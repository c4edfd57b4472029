"""Classifiers solved in closed form from statistics of the features, gathered once per experience."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.discriminant import fit_lda, fit_ncm
from avalanche_sdlora.drift import DriftMoments, transport
from avalanche_sdlora.expansion import RandomExpansion
from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.head import MASKED
from avalanche_sdlora.ridge import fit_ridge
from avalanche_sdlora.statistics import FeatureStatistics

_FITS: dict[str, Callable[[FeatureStatistics], tuple[Any, ...]]] = {
    "ncm": fit_ncm,
    "lda": fit_lda,
    "ridge": fit_ridge,
    "random_ridge": fit_ridge,
}


class ClosedFormHead(GrowingModule):
    """A linear classifier of features that is solved, not trained, and keeps no samples.

    Kinds: ``"ncm"`` (:func:`avalanche_sdlora.discriminant.fit_ncm`), ``"lda"``
    (:func:`avalanche_sdlora.discriminant.fit_lda`), ``"ridge"`` (:func:`avalanche_sdlora.ridge.fit_ridge`) and
    ``"random_ridge"``, ridge regression after a fixed random expansion to ``M`` units (RanPAC: McDonnell et al.,
    NeurIPS 2023, arXiv 2307.02251).

    Memory does not depend on the number of samples: for ``D`` features (``d``, or ``M`` after the expansion) and ``C``
    classes the statistics take ``8 (D^2 + C D + 2 C)`` bytes and the solution ``8 C (D + 1)``; the random matrix,
    ``4 d M``, is drawn from a seed. With a drift map, ``8 (3 D^2 + 2 D + 1)`` bytes while it is estimated, and
    ``4 n d`` for the features of the ``n`` images of the present experience, from its beginning to its end.

    Args:
        features: Size ``d`` of a feature.
        kind: One of the four.
        drift: ``"linear"``: statistics follow the features as those move, see :mod:`avalanche_sdlora.drift`; after an
            expansion it is the expanded features that are followed. ``"none"``: they stay as gathered.
        expansion: ``M``.
        seed: Draws the expansion.
    """

    GROWING: ClassVar = {"weight": (0,), "bias": (0,), "before": (0,)}

    weight: Tensor
    bias: Tensor
    before: Tensor

    def __init__(self, features: int, kind: str, drift: str = "none", expansion: int = 2000, seed: int = 0) -> None:
        super().__init__()
        self.kind, self.drift = kind, drift
        self.expand = RandomExpansion(features, expansion, seed) if kind == "random_ridge" else nn.Identity()
        self.size = expansion if kind == "random_ridge" else features
        self.statistics = FeatureStatistics(self.size)  # of each row of the linear head, by its index
        self.register_buffer("weight", torch.empty(0, self.size, dtype=torch.float64))  # (rows, D)
        self.register_buffer("bias", torch.empty(0, dtype=torch.float64))  # (rows,)
        self.register_buffer("before", torch.empty(0, features))  # (n, d)

    @property
    def ready(self) -> bool:
        """Whether there is something to predict with."""
        return len(self.weight) > 0

    @property
    def follows(self) -> bool:
        """Whether features are wanted from before an experience."""
        return self.drift != "none" and len(self.statistics.labels) > 0

    @torch.no_grad()
    def remember(self, batches: Iterable[Tensor]) -> None:
        """Keeps the features ``(n, d)`` of an experience's images, in batches, until :meth:`learn`."""
        self.replace("before", torch.cat([x.float() for x in batches]))

    @torch.no_grad()
    def learn(self, batches: Iterable[tuple[Tensor, Tensor]], rows: int) -> None:
        """Adds an experience to the statistics, and solves.

        Args:
            batches: Its features ``(n, d)`` and the rows ``(n,)`` of their classes, in batches; the images in the order
                of :meth:`remember`.
            rows: Number of rows of the linear head.

        Raises:
            ValueError: The images are not as many as were remembered, or a feature is not finite.
        """
        new = FeatureStatistics(self.size).to(self.weight.device)
        moments = DriftMoments(self.size).to(self.weight.device)
        seen, before = 0, self.before
        for x, y in batches:
            h = self.expand(x)
            new.update(h, y)
            if len(before):
                moments.update(self.expand(before[seen : seen + len(x)].to(x.dtype)), h)
            seen += len(x)
        if len(before) not in (0, seen):
            raise ValueError(f"batches: {seen} images, but {len(before)} were remembered before the experience")
        if len(before) > 1:
            transport(self.statistics, moments.fit())
        self.statistics.add(new)
        self.replace("before", before[:0])
        self._solve(rows)

    def _solve(self, rows: int) -> None:
        weight, bias, *_ = _FITS[self.kind](self.statistics)
        index = self.statistics.labels
        self.replace("weight", weight.new_zeros(rows, self.size).index_copy_(0, index, weight))
        self.replace("bias", bias.new_full((rows,), MASKED).index_copy_(0, index, bias))

    def expansion(self) -> nn.Sequential | None:
        """The expansion as plain layers, if there is one."""
        return self.expand.plain() if isinstance(self.expand, RandomExpansion) else None

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(n, rows)`` of features ``(n, d)``; a row without statistics has -1000."""
        with torch.autocast(features.device.type, enabled=False):
            h = self.expand(features)
            return F.linear(h, self.weight.to(h.dtype), self.bias.to(h.dtype))
