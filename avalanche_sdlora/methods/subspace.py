"""The subspace of a layer's inputs that later tasks must not touch, and directions outside it (InfLoRA's mathematics).

References:
    Liang and Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024, arXiv 2404.00228.
    The subspace itself: Saha et al., "Gradient Projection Memory", ICLR 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_threshold(threshold: float) -> float:
    """A share of a task's energy, as it is.

    Raises:
        ValueError: It is not above 0, or above 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold!r}: expected a number above 0 and at most 1")
    return threshold


def free_rows(moment: Tensor, basis: Tensor, rank: int) -> Tensor:
    """``A``: where a task's inputs are strongest outside the protected subspace.

    The rows are the leading eigenvectors of ``P C P`` with ``P = I - M M^T``, those of the inputs after projection (the
    paper's design of its matrix ``B_t``). The authors' code takes the left singular vectors of ``P C`` instead, which
    span nearly that space. Rows have the length ``1 / sqrt(3)`` as in the code, the root mean square length of a row
    that is drawn Kaiming-uniformly.

    Args:
        moment: ``C (d, d)``, second moment of the task's inputs.
        basis: ``M (d, k)``, orthonormal columns that span the protected subspace.
        rank: Rows wanted.

    Returns:
        ``(rank, d)``, float64, orthogonal to each other and to ``basis``. Rows are 0 where nothing is left outside.
    """
    C, M = moment.double(), basis.double()
    P = torch.eye(len(C), dtype=C.dtype, device=C.device) - M @ M.T
    values, vectors = torch.linalg.eigh(P @ C @ P)  # ascending
    rows = vectors[:, -rank:].T.flip(0)
    rows = rows - (rows @ M) @ M.T  # exactly outside, despite rounding
    nothing = torch.finfo(C.dtype).eps * len(C) * torch.linalg.matrix_norm(C, 2)
    return torch.where(values[-rank:].flip(0)[:, None] > nothing, rows / math.sqrt(3), 0.0)


def extend(basis: Tensor, moment: Tensor, threshold: float) -> Tensor:
    """The protected subspace, grown until it holds the share ``threshold`` of a task's energy.

    Energy is the sum of the squared singular values of the second moment. The columns added are the leading left
    singular vectors of its part outside the subspace: the rule of the authors' code, for which their thresholds were
    chosen (the paper writes it for the inputs themselves). Their DualGPM keeps the complement once that is smaller,
    which saves memory and changes nothing else.

    Args:
        basis: ``M (d, k)``, orthonormal columns.
        moment: ``C (d, d)``, second moment of the inputs that the task ended with.
        threshold: Above 0 and at most 1.

    Returns:
        ``(d, k')``, float64, the columns of ``basis`` first.
    """
    C, M = moment.double(), basis.double()
    outside = C - M @ (M.T @ C)
    U, S, _ = torch.linalg.svd(outside)
    total, energy = C.square().sum(), S.square()
    held = total - energy.sum() + torch.cat([energy.new_zeros(1), energy.cumsum(0)])  # after 0, 1, ... more columns
    more = min(int((held < threshold * total).sum()), len(C) - M.shape[1])
    new = torch.linalg.qr(U[:, :more] - M @ (M.T @ U[:, :more])).Q  # outside even after rounding
    return torch.cat([M, new], dim=1).contiguous()  # products round by layout, and a file keeps none
