"""Sums over the features of a stream, from which closed-form classifiers are made."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.processes import all_sum, gather_objects, several


class FeatureStatistics(GrowingModule):
    """Second moment of the features, and number and sum of each class's, in float64.

    They are sums over samples: the order of samples, classes and tasks makes no difference beyond rounding, the
    statistics of two parts of a stream add up, and their size does not depend on how much has been seen.

    Args:
        features: Size ``d`` of a feature.

    Attributes:
        second: ``(d, d)``, ``sum_i x_i x_i^T``.
        labels: ``(classes,)``, the class labels seen, those of one batch in ascending order after those before it.
        counts: ``(classes,)``, samples of each.
        sums: ``(classes, d)``, the sum of the features of each.
    """

    GROWING: ClassVar = {"labels": (0,), "counts": (0,), "sums": (0,)}

    second: Tensor
    labels: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("second", torch.zeros(features, features, dtype=torch.float64))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))
        self.register_buffer("counts", torch.empty(0, dtype=torch.float64))
        self.register_buffer("sums", torch.empty(0, features, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds features ``x (n, d)`` of the classes ``y (n,)``.

        Raises:
            ValueError: The shapes do not fit, or a feature is not finite.
        """
        if x.dim() != 2 or x.shape[1] != len(self.second) or y.shape != x.shape[:1]:
            raise ValueError(
                f"x, y: expected shapes (n, {len(self.second)}) and (n,), got {tuple(x.shape)}, {tuple(y.shape)}"
            )
        x, y = x.to(self.second), y.to(self.labels)
        if not torch.isfinite(x).all():
            raise ValueError("x: a feature is NaN or infinite; nothing has been added")
        rows = self._rows(y)
        self.counts.index_add_(0, rows, torch.ones_like(x[:, 0]))
        self.sums.index_add_(0, rows, x)
        self.second += x.T @ x

    @torch.no_grad()
    def add(self, other: FeatureStatistics, times: float = 1.0) -> None:
        """Adds the statistics of another part of the stream ``times`` times; -1 takes them away again."""
        rows = self._rows(other.labels)
        self.counts.index_add_(0, rows, other.counts, alpha=times)
        self.sums.index_add_(0, rows, other.sums, alpha=times)
        self.second += times * other.second

    @torch.no_grad()
    def sum_over_processes(self) -> None:
        """Puts the statistics of all processes' samples in place of those of this one's, with the same bits in each.

        Every process must call it, also one that has seen no sample. Labels are then in ascending order.
        """
        if not several():
            return
        labels = sorted({label for own in gather_objects(self.labels.tolist()) for label in own})
        every = torch.tensor(labels, dtype=torch.long, device=self.labels.device)
        rows = (self.labels[:, None] == every).to(torch.uint8).argmax(1) if len(every) else self.labels
        counts = self.counts.new_zeros(len(every)).index_copy_(0, rows, self.counts)
        sums = self.sums.new_zeros(len(every), len(self.second)).index_copy_(0, rows, self.sums)
        self.replace("labels", every)
        self.replace("counts", all_sum(counts))
        self.replace("sums", all_sum(sums))
        self.second = all_sum(self.second)

    def clear(self) -> None:
        """Forgets everything."""
        for name in self.GROWING:
            self.replace(name, getattr(self, name)[:0])
        self.second.zero_()

    def of_first(self, features: int) -> FeatureStatistics:
        """The statistics of the first ``features`` alone, which a larger set contains."""
        if features == len(self.second):
            return self
        part = FeatureStatistics(0)
        part.second = self.second[:features, :features]
        part.labels, part.counts, part.sums = self.labels, self.counts, self.sums[:, :features]
        return part

    def copy(self) -> FeatureStatistics:
        """Statistics of their own with equal contents."""
        return copy.deepcopy(self)

    def _rows(self, labels: Tensor) -> Tensor:
        """The row of each label ``(n,)``; a label not seen before gets one."""
        if not len(labels):
            return labels
        known = set(self.labels.tolist())
        new = torch.tensor([c for c in labels.unique().tolist() if c not in known], dtype=torch.long)
        if len(new):
            self.replace("labels", torch.cat([self.labels, new.to(self.labels)]))
            self.replace("counts", torch.cat([self.counts, self.counts.new_zeros(len(new))]))
            self.replace("sums", torch.cat([self.sums, self.sums.new_zeros(len(new), len(self.second))]))
        return (labels[:, None] == self.labels).to(torch.uint8).argmax(1)

    @property
    def means(self) -> Tensor:
        """The mean feature of each class ``(classes, d)``."""
        return self.sums / self.counts[:, None]
