"""Accuracy, forgetting and transfer of a stream, each formula in one place.

All of them read one lower-triangular matrix: ``a[i][j]`` is the accuracy, in percent, on the test samples of
experience ``j`` measured after training on experience ``i``. Indices start at 0 here and at 1 in the papers.

References:
    Acc and AAA: Wu et al., "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning",
    ICLR 2025. Forgetting: Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018. BWT:
    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class AccuracyMatrix:
    """Accuracies of a stream and how many test samples stand behind each column.

    A method that learns all experiences at once (the joint upper bound) has the last row only: the others are missing,
    and so are the summaries that would need them.

    Attributes:
        values: ``(N, N)`` float64, percent. Only the diagonal and the entries below it are read; those
            above it are replaced by NaN, so that they cannot enter a mean unseen. A missing row is NaN throughout.
        samples: ``(N,)`` int64, the number of test samples of each experience.
        balanced: The balanced accuracy at the end, percent: the mean of the recalls of all classes seen, every class
            weighted alike; None where it was not measured.

    Raises:
        ValueError: The matrix is empty or not square, an accuracy in use is not within 0 and 100, or the
            sample counts are not ``N`` positive whole numbers.
    """

    values: NDArray[np.float64]
    samples: NDArray[np.int64]
    balanced: float | None = None

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 2 or values.shape[0] != values.shape[1] or values.size == 0:
            raise ValueError(f"An accuracy matrix is square and not empty; got shape {values.shape}.")
        n = len(values)
        missing = np.array([np.isnan(row[: i + 1]).all() for i, row in enumerate(values)])
        used = np.concatenate([row[: i + 1] for i, row in enumerate(values) if not missing[i] or i == n - 1])
        if not np.all((used >= 0) & (used <= 100)):  # NaN fails both comparisons
            raise ValueError("Every accuracy on and below the diagonal must be within 0 and 100 percent.")
        counts = np.array(self.samples)
        if counts.shape != (n,) or counts.dtype.kind not in "iu" or np.any(counts < 1):
            raise ValueError(f"Expected {n} positive whole sample counts, one an experience; got {counts!r}.")
        samples = counts.astype(np.int64)
        values[np.triu_indices(n, k=1)] = np.nan
        values.flags.writeable = samples.flags.writeable = False
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "samples", samples)

    @classmethod
    def from_rows(
        cls, rows: Sequence[ArrayLike | None], samples: Sequence[int], balanced: float | None = None
    ) -> AccuracyMatrix:
        """Build the matrix from one row for each experience trained so far.

        Args:
            rows: ``rows[i][j]``, percent. Row ``i`` has at least ``i + 1`` entries; later ones are ignored. None where
                nothing was measured after experience ``i``, which the last row cannot be.
            samples: Test samples of each experience, at least ``len(rows)`` of them; later ones are ignored,
                so that an unfinished stream can be reported.
            balanced: The balanced accuracy after the last row, percent, if it was measured.

        Raises:
            ValueError: A row is too short, or as for the class.
        """
        n = len(rows)
        values = np.full((n, n), np.nan)
        for i, row in enumerate(rows):
            if row is None:
                continue
            accuracies = np.asarray(row, dtype=np.float64)
            if accuracies.ndim != 1 or len(accuracies) <= i:
                raise ValueError(f"Row {i} needs {i + 1} accuracies; got shape {accuracies.shape}.")
            values[i, : i + 1] = accuracies[: i + 1]
        return cls(values, np.asarray(samples)[:n], balanced)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self) -> list[list[float] | None]:
        """The lower triangle as lists, row ``i`` of length ``i + 1`` or None: the form to write to JSON."""
        return [None if np.isnan(row[0]) else row[: i + 1].tolist() for i, row in enumerate(self.values)]

    def average_accuracy(self) -> float:
        """Acc: ``mean_j a[N][j]``, every experience weighted alike (Wu et al., 2025)."""
        return float(self.values[-1].mean())

    def average_anytime_accuracy(self) -> float:
        """AAA: ``mean_i mean_{j<=i} a[i][j]``, the mean of Acc along the stream (Wu et al., 2025)."""
        return float(np.mean([row[: i + 1].mean() for i, row in enumerate(self.values)]))

    def pooled_accuracy(self) -> float:
        """Correct answers over all test samples at the end: Acc with every *sample* weighted alike.

        This is what the public codes of the method report; it equals Acc where the experiences are equally
        large.
        """
        return float(np.average(self.values[-1], weights=self.samples))

    def forgetting(self) -> float:
        """Forgetting: ``mean_{j<N} (max_{i>=j} a[i][j] - a[N][j])``, never negative.

        Chaudhry et al. (2018) leave the last moment out of the maximum, so that an experience which is best at
        the very end counts as negative forgetting; here it counts as none, and :meth:`backward_transfer` shows
        the gain. 0 for a stream of one experience, where nothing can be forgotten.
        """
        last = len(self) - 1
        if last == 0:
            return 0.0
        best = np.array([self.values[j:, j].max() for j in range(last)])
        return float(np.mean(best - self.values[last, :last]))

    def backward_transfer(self) -> float:
        """BWT: ``mean_{j<N} (a[N][j] - a[j][j])`` (Lopez-Paz and Ranzato, 2017).

        Negative where later training harmed earlier experiences. 0 for a stream of one experience.
        """
        last = len(self) - 1
        if last == 0:
            return 0.0
        return float(np.mean(self.values[last, :last] - np.diagonal(self.values)[:last]))

    def summary(self) -> dict[str, float]:
        """All numbers, percent and finite: ``acc``, ``aaa``, ``pooled_acc``, ``forgetting``, ``bwt``.

        Also ``balanced_acc``, if it was measured. Where rows are missing only ``acc``, ``pooled_acc`` and
        ``balanced_acc``, which are of the last.
        """
        last = {"acc": self.average_accuracy(), "pooled_acc": self.pooled_accuracy()}
        if self.balanced is not None:
            last["balanced_acc"] = self.balanced
        if None in self.rows():
            return last
        return {
            **last,
            "aaa": self.average_anytime_accuracy(),
            "forgetting": self.forgetting(),
            "bwt": self.backward_transfer(),
        }
