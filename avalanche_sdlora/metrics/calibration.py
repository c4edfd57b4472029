"""How far probabilities can be believed."""

from __future__ import annotations

import torch
from torch import Tensor


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error of the most probable class (Guo et al., ICML 2017, arXiv 1706.04599).

    ``sum_b n_b / n * |accuracy_b - confidence_b|`` over ``bins`` equally wide bins of the confidence.

    Args:
        probabilities: ``(n, classes)``, rows that sum to 1.
        labels: Class labels ``(n,)``.
        bins: Number of bins.

    Returns:
        A number from 0, for probabilities that hold, to 1.

    Raises:
        ValueError: The shapes do not belong together, there are no samples or no bins.
    """
    if probabilities.dim() != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and labels {tuple(labels.shape)}: expected (n, classes) and "
            "(n,), n at least 1"
        )
    if bins < 1:
        raise ValueError(f"bins={bins}: expected at least 1")
    confidence, predicted = probabilities.double().max(1)
    gap = (predicted == labels).double() - confidence  # (n,)
    index = (confidence * bins).long().clamp(0, bins - 1)
    return float(torch.zeros(bins, dtype=gap.dtype, device=gap.device).index_add_(0, index, gap).abs().sum() / len(gap))
