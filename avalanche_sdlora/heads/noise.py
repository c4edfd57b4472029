"""How far samples lie from the mean of others, in the metric of a covariance that was estimated from these."""

from __future__ import annotations

import torch
from torch import Tensor


def length_of_noise(covariance: Tensor, scale: float, level: float, freedom: float) -> float:
    """Expected ``e^T (scale S + level I)^-1 e`` for the deviation ``e`` of a sample that ``S`` was not made from.

    For those that it was made from the mean is ``tr(S (scale S + level I)^-1)``; others reach where it knows little.
    With ``f`` degrees of freedom and ``df = scale tr(S (scale S + level I)^-1)`` it is that divided by ``1 - df / f``,
    for ``f`` and ``d`` that are both large (Ledoit and Péché, Probability Theory and Related Fields 2011).

    Args:
        covariance: ``S (d, d)``, a sample covariance.
        scale: At least 0.
        level: At least 0.
        freedom: ``f``, at least 1.

    Returns:
        Not below 0; infinite where ``S`` leaves no degree of freedom.
    """
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    # What rounding has left in directions in which S cannot vary is none of its rank.
    values = values[len(values) - min(len(values), int(freedom)) :]
    metric = scale * values + level
    left = freedom - len(values) + float((level / metric).sum())  # f - df, of which no difference is taken
    return float((values / metric).sum()) * freedom / left if left > 0 else torch.inf
