"""The penalties that three methods beside SD-LoRA add to the loss, each a function of low-rank factors.

A direction is ``B A`` with ``A (r, in)`` and ``B (out, r)``. Each penalty is that of one projection; the methods sum it
over all of them and multiply it by their ``lambda``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def overlap(A: Tensor, past_A: Tensor) -> Tensor:
    """``sum_ij |<a_i, p_j>|`` over the rows ``a_i`` of ``A`` and past rows ``p_j`` at unit length: O-LoRA's penalty.

    It is 0 exactly if the row spaces are orthogonal. The equations of the paper (Wang et al., EMNLP Findings 2023,
    arXiv 2310.14152) sum squares, the authors' code absolute values, with the weights of its scripts chosen for them:
    the code is followed. There past rows keep the length they were learned with, which the adapter does not keep.

    Args:
        A: ``(r, in)``, of the direction that trains.
        past_A: ``(R, in)``, of all frozen directions; no gradient flows to it.

    Returns:
        A scalar; 0 if there are no past directions.
    """
    return (F.normalize(past_A.detach(), dim=1) @ A.T).abs().sum()


def magnitude_of_update(A: Tensor, B: Tensor) -> Tensor:
    """``|B A|_1``, the sum of the absolute elements of the update: N-LoRA's penalty.

    A sparse update collides with few elements of earlier ones. The formula is that of the paper (Yang et al.,
    arXiv 2410.10179). The authors' code is said to multiply the factors the other way round (``A B``, of r by r
    elements), which is another quantity and exists for square layers only.

    Args:
        A: ``(r, in)``.
        B: ``(out, r)``.

    Returns:
        A scalar.
    """
    return (B @ A).abs().sum()


def subspace_energy(A: Tensor, B: Tensor, P_in: Tensor, P_out: Tensor) -> Tensor:
    """``(||A P_in||_F^2 + ||B^T P_out||_F^2) / 2``: CLoRA's penalty (Lu et al., ACL 2025, arXiv 2410.16801).

    Where it is 0, the update ignores inputs in the span of ``P_in`` and writes nothing into the span of ``P_out``. The
    half comes from the authors' code.

    Args:
        A: ``(r, in)``.
        B: ``(out, r)``.
        P_in: ``(in, k)``, orthonormal columns.
        P_out: ``(out, k')``, orthonormal columns.

    Returns:
        A scalar.
    """
    return ((A @ P_in).square().sum() + (B.T @ P_out).square().sum()) / 2


def random_subspace(size: int, dimensions: int, seed: int) -> Tensor:
    """``dimensions`` random orthonormal columns of length ``size``; a seed gives equal columns on every machine.

    Returns:
        ``(size, dimensions)``, float32, on the CPU.
    """
    numbers = torch.randn(size, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(numbers).Q.float().contiguous()  # products round by layout, and a file keeps none
