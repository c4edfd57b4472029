"""Smaller low-rank updates: truncation, recompression and least squares, all through the factors.

A product ``B A`` of ``B (out, R)`` and ``A (R, in)`` is never formed. With the QR decompositions ``B = Q_B R_B`` and
``A^T = Q_A R_A`` its singular values are those of the small core ``R_B R_A^T``, and two products have the inner product
``<B A, B' A'>_F = sum_ij (B^T B')_ij (A A'^T)_ij``. Everything is computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spectrum(NamedTuple):
    """The singular value decomposition ``U diag(S) Vh`` of a product ``B A``, ``k = min(out, R, in)``."""

    U: Tensor  # (out, k)
    S: Tensor  # (k,), descending
    Vh: Tensor  # (k, in)

    def rank(self) -> int:
        """How many singular values are more than rounding."""
        if not len(self.S):
            return 0
        floor = self.S[0] * max(len(self.U), self.Vh.shape[1]) * torch.finfo(self.S.dtype).eps
        return int((floor < self.S).sum())

    def rank_for_energy(self, energy: float) -> int:
        """The smallest rank whose share of the squared singular values is at least ``energy``; 0 for a zero product."""
        if not self.rank():
            return 0
        kept = (self.S / self.S[0]).square().cumsum(0)  # scaled first: squares of tiny values would vanish
        # The last sum is the whole, though rounding may make an earlier one larger.
        return 1 + int((kept[:-1] < energy * kept[-1]).sum())

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """``A (rank, in)`` and ``B (out, rank)`` of the best approximation of that rank, equally strong."""
        root = self.S[:rank].sqrt()
        return root[:, None] * self.Vh[:rank], self.U[:, :rank] * root


def spectrum(A: Tensor, B: Tensor) -> Spectrum:
    """The singular value decomposition of ``B A`` from ``A (R, in)`` and ``B (out, R)``, in float64.

    Costs ``O((out + in) R^2 + R^3)``.
    """
    Q_B, R_B = torch.linalg.qr(B.double())
    Q_A, R_A = torch.linalg.qr(A.double().T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    return Spectrum(Q_B @ U, S, Vh @ Q_A.T)


def gram_of_directions(A: Tensor, B: Tensor, owner: Tensor, t: int) -> Tensor:
    """``<D_i, D_j>_F (t, t)`` of the ``t`` directions ``D_k`` that the columns of ``B A`` belong to.

    Args:
        A: ``(R, in)``, in the precision of the result.
        B: ``(out, R)``.
        owner: ``(R,)``, the direction of each column, below ``t``.
        t: Number of directions; one without columns is zero.
    """
    columns = (B.T @ B) * (A @ A.T)  # (R, R)
    gram = columns.new_zeros(t, len(A)).index_add_(0, owner, columns)
    return gram.new_zeros(t, t).index_add_(1, owner, gram)


class Fit(NamedTuple):
    """How well frozen directions explain a new one."""

    coefficients: Tensor  # (t,), float64
    residual: float  # distance of their combination from the new direction at unit norm, from 0 to 1


def fit_direction(A: Tensor, B: Tensor, bank_A: Tensor, bank_B: Tensor, owner: Tensor, t: int) -> Fit:
    """``argmin_delta || D - sum_k delta_k D_k ||_F`` for the new direction ``D = B A / ||B A||_F``.

    This is the test of knowledge-distillation pruning (Wu et al., ICLR 2025, arXiv 2501.13198). Of all minimisers the
    one of least norm is returned, so that frozen directions may be dependent, equal or zero.

    Args:
        A: ``(r, in)`` of the new direction, any norm.
        B: ``(out, r)``.
        bank_A: ``(R, in)`` of the frozen directions ``D_k``, of any norm.
        bank_B: ``(out, R)``.
        owner: ``(R,)``, the direction ``k`` that each column belongs to, below ``t``.
        t: Number of frozen directions.

    Returns:
        Coefficients ``delta (t,)`` and residual. For a new direction of norm 0 both are 0.
    """
    A, B, bank_A, bank_B = A.double(), B.double(), bank_A.double(), bank_B.double()
    # At unit size, so that no product of the Gram matrix can vanish or overflow.
    A, B = A / A.norm().clamp(min=_TINY), B / B.norm().clamp(min=_TINY)
    owner = torch.cat([owner, owner.new_full((len(A),), t)])  # the new direction comes last
    A, B = torch.cat([bank_A, A]), torch.cat([bank_B, B], dim=1)
    gram = gram_of_directions(A, B, owner, t + 1)
    norms = gram.diagonal().clamp(min=0).sqrt()
    if norms[t] < _NOTHING:
        return Fit(norms.new_zeros(t), 0.0)
    safe = torch.where(norms > _NOTHING, norms, 1.0)
    gram = gram / safe / safe[:, None]
    delta = torch.linalg.pinv(gram[:t, :t], rtol=1e-12, hermitian=True) @ gram[:t, t]
    error = torch.cat([-delta, delta.new_ones(1)])
    return Fit(delta / safe[:t], float((error @ gram @ error).clamp(min=0).sqrt()))


_TINY = torch.finfo(torch.float64).tiny
# Below this the product of two factors of unit size is rounding, and the direction as good as zero.
_NOTHING = 1e-14
