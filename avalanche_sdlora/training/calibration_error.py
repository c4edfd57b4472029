"""How far the probabilities of a classifier are from how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """Predictions by their confidence, in ``M`` bins of equal width over 0 to 1: what a reliability diagram shows.

    Attributes:
        counts: ``(M,)``, how many predictions have a confidence in ``((m - 1) / M, m / M]``.
        confidence: ``(M,)``, their mean confidence; 0 where there are none.
        accuracy: ``(M,)``, the share of them that is right; 0 where there are none.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    def error(self) -> float:
        """Expected calibration error: the mean over predictions of ``|accuracy - confidence|`` of their bin, 0 to 1."""
        gaps = (self.accuracy - self.confidence).abs()
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Sort predictions into bins by their confidence.

    Args:
        confidence: ``(n,)``, the probability of the predicted class, within 0 and 1.
        correct: ``(n,)`` bool, whether the prediction is right.
        bins: ``M``.

    Raises:
        ValueError: There are no predictions, no bins, or a confidence is not within 0 and 1.
    """
    confidence, correct = confidence.detach().double().cpu(), correct.detach().double().cpu()
    if bins < 1:
        raise ValueError(f"bins={bins}: expected at least 1")
    if confidence.dim() != 1 or not len(confidence) or correct.shape != confidence.shape:
        raise ValueError(
            f"confidence {tuple(confidence.shape)}, correct {tuple(correct.shape)}: expected at least one "
            "prediction, with one of each"
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
    """Expected calibration error of the most probable class, within 0 and 1.

    ``sum_m (n_m / n) |accuracy_m - confidence_m|`` over bins of equal width (Naeini et al., "Obtaining Well Calibrated
    Probabilities Using Bayesian Binning", AAAI 2015; as Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017, measure it).

    Args:
        probabilities: ``(n, classes)``, each row of which sums to 1.
        labels: ``(n,)``, the true classes.
        bins: Number of bins.

    Raises:
        ValueError: There are no samples, or probabilities are not within 0 and 1.
    """
    if probabilities.dim() != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)}, labels {tuple(labels.shape)}: expected (n, classes) and (n,)"
        )
    confidence, predicted = probabilities.max(1)
    return reliability(confidence, predicted == labels.to(predicted.device), bins).error()
