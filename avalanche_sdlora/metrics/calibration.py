"""How far probabilities can be believed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """Predictions by their confidence, in ``M`` bins of equal width over 0 to 1: the content of a reliability diagram.

    Attributes:
        counts: ``(M,)``, how many predictions have a confidence in ``((m - 1) / M, m / M]``.
        confidence: ``(M,)``, their mean confidence; 0 where there are none.
        accuracy: ``(M,)``, the share of them that is right; 0 where there are none.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    def error(self) -> float:
        """Expected calibration error, 0 to 1: the mean over predictions of ``|accuracy - confidence|`` of their bin."""
        gaps = (self.accuracy - self.confidence).abs()
        return float((self.counts * gaps).sum() / self.counts.sum())

    def by_chance(self) -> float:
        """About what :meth:`error` is expected to be of so many predictions if every confidence holds, 0 to 1.

        Of ``n_b`` predictions the share that is right lies by ``sqrt(2 p (1 - p) / (pi n_b))`` from its expectation
        ``p``, on average (that of a normal distribution).
        """
        spread = (2 * self.confidence * (1 - self.confidence) / (torch.pi * self.counts.clamp(min=1))).sqrt()
        return float((self.counts * spread).sum() / self.counts.sum())


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Sort predictions into bins by their confidence.

    Args:
        confidence: ``(n,)``, the probability of the predicted class, from 0 to 1.
        correct: ``(n,)`` bool, whether the prediction is right.
        bins: ``M``.

    Raises:
        ValueError: There are no predictions or no bins, or a confidence is not within 0 and 1.
    """
    confidence, correct = confidence.detach().double().cpu(), correct.detach().double().cpu()
    if bins < 1:
        raise ValueError(f"bins={bins}: expected at least 1")
    if confidence.dim() != 1 or not len(confidence) or correct.shape != confidence.shape:
        raise ValueError(
            f"confidence {tuple(confidence.shape)} and correct {tuple(correct.shape)}: expected (n,) both, n at least 1"
        )
    if not bool(((confidence >= 0) & (confidence <= 1 + 1e-6)).all()):  # NaN fails, too
        raise ValueError("confidence: expected probabilities within 0 and 1")
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # a confidence of 0 is in the first bin
    counts, sums, hits = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, place, x)
        for x in (torch.ones_like(confidence), confidence, correct)
    )
    filled = counts.clamp(min=1)
    return Reliability(counts, sums / filled, hits / filled)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error of the most probable class.

    ``sum_b n_b / n * |accuracy_b - confidence_b|`` over ``bins`` equally wide bins of the confidence (Naeini et al.,
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017, arXiv 1706.04599).

    Args:
        probabilities: ``(n, classes)``, rows that sum to 1.
        labels: Class labels ``(n,)``.
        bins: Number of bins.

    Returns:
        A number from 0, for probabilities that hold, to 1.

    Raises:
        ValueError: The shapes do not belong together, there are no samples or no bins, or a probability is not within
            0 and 1.
    """
    if probabilities.dim() != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and labels {tuple(labels.shape)}: expected (n, classes) and "
            "(n,)"
        )
    confidence, predicted = probabilities.max(1)
    return reliability(confidence, predicted == labels.to(predicted.device), bins).error()
