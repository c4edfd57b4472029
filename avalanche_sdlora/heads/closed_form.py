"""Classifiers solved in closed form from statistics of the features, gathered once per experience."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.heads.discriminant import fit_lda, fit_ncm
from avalanche_sdlora.heads.drift import DriftMoments, Frame
from avalanche_sdlora.heads.expansion import RandomExpansion
from avalanche_sdlora.heads.growing_head import MASKED
from avalanche_sdlora.heads.ridge import fit_ridge
from avalanche_sdlora.heads.statistics import FeatureStatistics
from avalanche_sdlora.processes import all_sum, from_first

_FITS: dict[str, Callable[[FeatureStatistics], tuple[Any, ...]]] = {
    "ncm": fit_ncm,
    "lda": fit_lda,
    "ridge": fit_ridge,
    "random_ridge": fit_ridge,
}


class ClosedFormHead(GrowingModule):
    """A linear classifier of features that is solved, not trained, and keeps no samples.

    Kinds, with the functions of this package that solve them: ``"ncm"`` (``discriminant.fit_ncm``), ``"lda"``
    (``discriminant.fit_lda``), ``"ridge"`` (``ridge.fit_ridge``) and ``"random_ridge"``, ridge regression
    after a fixed random expansion to ``M`` units (RanPAC: McDonnell et al., NeurIPS 2023, arXiv 2307.02251).

    Memory does not depend on the number of samples: for ``D`` features (``d``, or ``M`` after the expansion) and ``C``
    classes the statistics take ``8 (D^2 + C D + 2 C)`` bytes and the solution ``8 C (D + 1)``; the random matrix,
    ``4 d M``, is drawn from a seed. Following the features takes ``8 (d^2 + d)`` bytes; and for the ``n`` images of the
    present experience alone ``4 n d`` from its beginning to its end, at which it is ``8 (n d + 2 d^2 + 2 d + 2)``.

    Args:
        features: Size ``d`` of a feature.
        kind: One of the four.
        drift: ``"linear"``: features that move are followed, as :class:`avalanche_sdlora.heads.drift.Frame` describes.
            ``"none"``: statistics of all experiences are added up as if nothing moved.
        expansion: ``M``.
        seed: Draws the expansion.

    Attributes:
        learning: Whether an experience has begun that has not been learned yet; then it is not :attr:`ready`.

    Raises:
        ValueError: An argument is out of range.
    """

    GROWING: ClassVar = {"weight": (0,), "bias": (0,), "before": (0,)}

    weight: Tensor
    bias: Tensor
    before: Tensor

    def __init__(self, features: int, kind: str, drift: str = "none", expansion: int = 2000, seed: int = 0) -> None:
        super().__init__()
        if kind not in _FITS:
            raise ValueError(f"kind={kind!r}: expected one of {', '.join(map(repr, _FITS))}")
        if drift not in ("none", "linear"):
            raise ValueError(f"drift={drift!r}: expected 'none' or 'linear'")
        if type(expansion) is not int or expansion < 1:
            raise ValueError(f"expansion={expansion!r}: expected an integer of at least 1")
        self.kind = kind
        self.learning = False
        self.expand = RandomExpansion(features, expansion, seed) if kind == "random_ridge" else nn.Identity()
        self.size = expansion if kind == "random_ridge" else features
        self.statistics = FeatureStatistics(self.size)  # of each row of the linear head, by its index
        self.register_buffer("weight", torch.empty(0, self.size, dtype=torch.float64))  # (rows, D)
        self.register_buffer("bias", torch.empty(0, dtype=torch.float64))  # (rows,)
        self.frame = Frame(features) if drift == "linear" else None
        self.register_buffer("before", torch.empty(0, features))  # (n, d)

    def get_extra_state(self) -> Tensor:
        """``learning``: a plain attribute otherwise, so that reading it never waits for a device."""
        return torch.tensor(self.learning)

    def set_extra_state(self, state: Tensor) -> None:
        """Set ``learning`` from a state dict."""
        self.learning = bool(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClosedFormHead:
        """Moves with the model to another device, but stays in float64 when the model takes another type."""

        def applied(t: Tensor) -> Tensor:
            new = fn(t)
            narrowed = t.dtype == torch.float64 and new.dtype != torch.float64
            return t.to(new.device) if narrowed else new

        super()._apply(applied, recurse)
        return self

    @property
    def ready(self) -> bool:
        """Whether there is something to predict with, of all that has begun to be learned."""
        return len(self.weight) > 0 and not self.learning

    @property
    def follows(self) -> bool:
        """Whether features are wanted from before an experience."""
        return self.frame is not None and len(self.statistics.labels) > 0

    @torch.no_grad()
    def remember(self, batches: Iterable[Tensor]) -> None:
        """Keeps the features ``(n, d)`` of an experience's images, in batches, until :meth:`learn`.

        Each of several processes keeps those of its own images.

        Raises:
            ValueError: There are none, in any process.
        """
        features = [x.to(self.before.dtype) for x in batches]
        if not _total(sum(map(len, features)), self.before.device):
            raise ValueError("batches: empty; expected the features of an experience's images")
        self.replace("before", torch.cat([self.before[:0], *features]))

    def abandon(self) -> None:
        """Forgets that an experience has begun: the solution from before it predicts again."""
        self.replace("before", self.before[:0])
        self.learning = False

    @torch.no_grad()
    def learn(
        self, batches: Iterable[tuple[Tensor, Tensor]], rows: int, *, repeats: bool = False, anew: bool = False
    ) -> None:
        """Adds an experience to the statistics, and solves.

        Args:
            batches: Its features ``(n, d)`` and the rows ``(n,)`` of their classes, in batches; the images in the order
                of :meth:`remember`. In several processes, those of each one's own images: their sums are summed over
                the processes, and the first of them solves.
            rows: Number of rows of the linear head.
            repeats: The images are those of the experience learned last, whose features as they are in the statistics
                were given to :meth:`remember`: they are taken out of the statistics, so that no image counts twice.
            anew: Only these images count: statistics gathered before are forgotten, and so is the old features' frame.

        Raises:
            ValueError: There are no images, or not as many as were remembered; a feature is not finite; or there are
                fewer rows than classes. Statistics and solution are then as they were.
        """
        frame = copy.deepcopy(self.frame)
        try:
            old, new = self._gather(batches, repeats, anew)
            if not len(new.labels):
                raise ValueError("batches: without images; expected those of an experience")
            if int(new.labels.max()) >= rows:
                raise ValueError(
                    f"rows={rows}: the linear head must have a row for each class, got {int(new.labels.max())}"
                )
        except ValueError:
            self.frame = frame
            raise
        if anew:
            self.statistics.clear()
        self.statistics.add(old, -1)
        self.statistics.add(new)
        self.replace("before", self.before[:0])
        self._solve(rows)
        self.learning = False

    def _gather(
        self, batches: Iterable[tuple[Tensor, Tensor]], repeats: bool, anew: bool
    ) -> tuple[FeatureStatistics, FeatureStatistics]:
        """The statistics that :meth:`learn` takes out, and those that it adds; the frame follows the features."""
        old, new = (FeatureStatistics(self.size).to(self.weight.device) for _ in range(2))
        if not anew and _total(len(self.before), self.before.device):
            # All features are needed twice: the frame must be known before the first is added to the statistics.
            batches = [(x.to(self.before.dtype), y) for x, y in batches]
            seen = sum(len(x) for x, _ in batches)
            if _total(int(len(self.before) != seen), self.before.device):
                raise ValueError(
                    f"batches: {seen} images, but {len(self.before)} were remembered before the experience"
                )
            pairs = list(zip(self.before.split([len(x) for x, _ in batches]), batches))
            if repeats:
                for x, (_, y) in pairs:
                    old.update(self._project(x), y)
                old.sum_over_processes()
            if self.frame is not None:
                moments = DriftMoments(self.before.shape[1]).to(self.before.device)
                for x, (z, _) in pairs:
                    moments.update(x, z)
                moments.sum_over_processes()
                if moments.n > 1:
                    self.frame.load_state_dict(from_first(lambda: self._followed(moments)))
        if anew and self.frame is not None:
            self.frame.reset()
        for x, y in batches:
            new.update(self._project(x), y)
        new.sum_over_processes()
        return old, new

    def _followed(self, moments: DriftMoments) -> dict[str, Tensor]:
        frame = copy.deepcopy(self.frame)
        assert frame is not None
        frame.follow(moments.fit())
        return frame.state_dict()

    def _solve(self, rows: int) -> None:
        weight, bias, *_ = from_first(lambda: tuple(_FITS[self.kind](self.statistics)), self.weight.device)
        index = self.statistics.labels
        self.replace("weight", weight.new_zeros(rows, self.size).index_copy_(0, index, weight))
        self.replace("bias", bias.new_full((rows,), MASKED).index_copy_(0, index, bias))

    def _project(self, x: Tensor) -> Tensor:
        """Features ``(n, d)`` as the statistics see them, ``(n, D)``."""
        with torch.autocast(x.device.type, enabled=False):
            return self.expand(x if self.frame is None else self.frame(x))

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(n, rows)`` of features ``(n, d)``; a row without statistics has -1000."""
        h = self._project(features)
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(h, self.weight.to(h.dtype), self.bias.to(h.dtype))

    def plain(self) -> tuple[nn.Sequential | None, Tensor, Tensor]:
        """The function of this head as layers of torch.

        Returns:
            The expansion ``(n, d)`` to ``(n, M)``, None where there is none; weight ``(rows, d or M)`` and bias
            ``(rows,)`` of the linear layer after it. The frame is part of whichever comes first.
        """
        A, c = (None, None) if self.frame is None else (self.frame.weight, self.frame.bias)
        if isinstance(self.expand, RandomExpansion):
            return self.expand.plain(A, c), self.weight, self.bias
        if A is None or c is None:
            return None, self.weight, self.bias
        return None, self.weight @ A, self.bias + self.weight @ c


def _total(n: int, device: torch.device) -> int:
    """The sum of a number over all processes."""
    return int(all_sum(torch.tensor(n, device=device)))
