"""The arithmetic of an adapted layer: tensors in, tensors out, no modules.

With ``R`` low-rank columns in all (frozen ones first, the ``r`` that train last), coefficients ``c (R,)``,
``A (R, in)`` and ``B (out, R)``, the weight of one projection is (Wu et al., arXiv 2501.13198, eq. 5)

    W = W0 + B diag(c) A                                                   # (out, in)

and it is built once per step, so that the layer costs one product whatever the number of tasks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Update(NamedTuple):
    """The low-rank update of the rows ``[start, stop)`` of a frozen weight, ``out = stop - start``."""

    start: int
    stop: int
    c: Tensor  # (R,) coefficients, frozen columns first; R = R_frozen + r
    bank_A: Tensor  # (R_frozen, in)
    bank_B: Tensor  # (out, R_frozen)
    A: Tensor  # (r, in), trains
    B: Tensor  # (out, r), trains


def product_norm(A: Tensor, B: Tensor) -> Tensor:
    """``||B A||_F`` from the factors ``A (r, in)`` and ``B (out, r)``, as a float64 scalar.

    ``B = Q R`` with orthonormal ``Q`` gives ``||B A||_F = ||R R'^T||_F`` where ``A^T = Q' R'``: only r-by-r matrices
    are formed, and unlike ``trace((B^T B)(A A^T))`` nothing cancels when the columns are nearly dependent.
    """
    core_B = torch.linalg.qr(B.double(), mode="r").R
    core_A = torch.linalg.qr(A.double().T, mode="r").R
    return torch.linalg.norm(core_B @ core_A.T)


def factors_norm(A: Tensor, B: Tensor) -> Tensor:
    """``||B||_F ||A||_F``, the divisor of the authors' code, as a float64 scalar."""
    return torch.linalg.norm(B.double()) * torch.linalg.norm(A.double())


def merged_weight(weight: Tensor, updates: list[Update], dtype: torch.dtype | None = None) -> Tensor:
    """``W0 + B diag(c) A`` on the rows of every update, as a new ``(out, in)`` tensor; no gradient flows.

    Args:
        weight: ``W0 (out, in)``.
        updates: One per adapted block of rows.
        dtype: Precision of the products and of the result, as autocast has it; the sum with ``W0`` is rounded once, so
            that an update smaller than the rounding of ``W0`` is not lost. None: the factors' own, without rounding.
    """
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        exact = torch.promote_types(weight.dtype, updates[0].c.dtype) if updates else weight.dtype
        dtype = exact if dtype is None else dtype
        W = weight.to(dtype, copy=True)
        for u in updates:
            A, B = all_factors(u)
            rows = slice(u.start, u.stop)
            if dtype == exact:
                W[rows].addmm_(B * u.c, A)  # (out, R) @ (R, in)
            else:
                W[rows] = weight[rows] + (B * u.c).to(dtype) @ A.to(dtype)
        return W


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, updates: list[Update]) -> Tensor:
    """``x W^T + bias`` with ``W = W0 + B diag(c) A``: one product forward, one for ``x`` backward.

    The gradients of ``c``, ``A``, ``B`` and ``x`` are exact. Neither ``W0``, ``bias`` nor the bank receives one.

    Args:
        x: Input ``(..., in)``.
        weight: Frozen ``W0 (out, in)``.
        bias: Frozen ``(out,)`` or None.
        updates: One per adapted block of rows.

    Returns:
        ``(..., out)``, in the autocast precision where autocast is on, else in that of ``x``.
    """
    return _AdaptedLinear.apply(x, weight, bias, _rows(updates), *_flat(updates))


def adapted_weight(weight: Tensor, updates: list[Update]) -> Tensor:
    """The weight ``W (out, in)`` itself, differentiable, for models that read ``layer.weight`` directly.

    It has the type of ``weight``: the sum is made in that of the factors, and rounded once.
    """
    return _AdaptedWeight.apply(weight, _rows(updates), *_flat(updates))


@torch.no_grad()
def linear_layer(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer of torch that holds copies of ``weight (out, in)`` and ``bias (out,)``; no random number is drawn."""
    out_features, in_features = weight.shape
    linear = nn.utils.skip_init(
        nn.Linear, in_features, out_features, bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    return linear


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision in which a linear layer multiplies ``x`` here: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: list[tuple[int, int]], *flat: Tensor
    ) -> Tensor:
        dtype = compute_dtype(x)
        W = merged_weight(weight, _unflat(rows, flat), dtype)  # (out, in)
        x = x.to(dtype)
        ctx.rows = rows
        ctx.save_for_backward(x, W, *flat)
        return F.linear(x, W, None if bias is None else bias.to(dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, W, *flat = ctx.saved_tensors
        updates = _unflat(ctx.rows, flat)
        grad = grad.to(W.dtype)
        with torch.autocast(grad.device.type, enabled=False):
            dx = grad @ W if ctx.needs_input_grad[0] else None  # (..., in)
            g, x = grad.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1])  # (n, out), (n, in)
            if _cheaper_through_tokens(updates, len(x)):
                gradients = _gradients_from_tokens(updates, g, x)
            else:
                gradients = [_gradients_from_weight(u, g[:, u.start : u.stop].T @ x) for u in updates]
        return dx, None, None, None, *(d for update in gradients for d in update)


class _AdaptedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: list[tuple[int, int]], *flat: Tensor) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(*flat)
        return merged_weight(weight, _unflat(rows, flat)).to(weight.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dW: Tensor) -> tuple[Any, ...]:
        updates = _unflat(ctx.rows, ctx.saved_tensors)
        with torch.autocast(dW.device.type, enabled=False):
            gradients = [_gradients_from_weight(u, dW[u.start : u.stop].to(u.A.dtype)) for u in updates]
        return None, None, *(d for update in gradients for d in update)


# The gradients of ``(c, bank_A, bank_B, A, B)``, the bank's being None, can be had exactly in two ways: through the
# tokens, whose cost grows with the total rank, or through dW = g^T x, whose cost hardly does.
_Gradients = tuple[Tensor, None, None, Tensor, Tensor]


def _cheaper_through_tokens(updates: list[Update], n: int) -> bool:
    """Whether the way through ``n`` tokens takes fewer multiplications."""
    tokens = weight = 0
    for u in updates:
        (r, d_in), d_out = u.A.shape, u.stop - u.start
        R = len(u.c)
        tokens += n * (R + r) * (d_out + d_in)
        weight += d_out * d_in * (n + R + r)
    return tokens <= weight


def _gradients_from_tokens(updates: list[Update], g: Tensor, x: Tensor) -> list[_Gradients]:
    """From ``g (n, all out)`` and ``x (n, in)``; products with ``x`` are made for all updates at once.

    Ranks stay the rows of every product: libraries multiply a wide matrix by a narrow one up to ten times more slowly
    than the narrow one's transpose by the wide one's.
    """
    factors = [tuple(factor.to(x.dtype) for factor in all_factors(u)) for u in updates]
    zs = (torch.cat([A for A, _ in factors]) @ x.T).split([len(u.c) for u in updates])  # (R, n) each
    dcs, dBs, vs = [], [], []
    for u, (_, B), z in zip(updates, factors, zs):
        old, g_u = len(u.bank_A), g[:, u.start : u.stop]  # (n, out)
        v = B.T @ g_u.T  # (R, n)
        dcs.append((v * z).sum(1, dtype=u.c.dtype))  # (R,)
        dBs.append((u.c[old:, None] * (z[old:] @ g_u)).T)  # (out, r)
        vs.append(v[old:])  # (r, n)
    dAs = (torch.cat(vs) @ x).split([len(u.A) for u in updates])  # (r, in) each
    return [
        (dc, None, None, (u.c[len(u.bank_A) :, None] * dA).to(u.A.dtype), dB.to(u.B.dtype))
        for u, dc, dA, dB in zip(updates, dcs, dAs, dBs)
    ]


def _gradients_from_weight(u: Update, dW: Tensor) -> _Gradients:
    """From the gradient ``dW (out, in)`` of the weight of one update's rows."""
    A, B = (factor.to(dW.dtype) for factor in all_factors(u))
    old, c = len(u.bank_A), u.c[len(u.bank_A) :, None]  # (r, 1)
    A_dW = A @ dW.T  # (R, out)
    dc = (B.T * A_dW).sum(1, dtype=u.c.dtype)  # (R,)
    dA = c * (B[:, old:].T @ dW)  # (r, in)
    dB = (c * A_dW[old:]).T  # (out, r)
    return dc, None, None, dA.to(u.A.dtype), dB.to(u.B.dtype)


def all_factors(u: Update) -> tuple[Tensor, Tensor]:
    """``A (R, in)`` and ``B (out, R)``, frozen and training columns together."""
    return torch.cat([u.bank_A, u.A]), torch.cat([u.bank_B, u.B], dim=1)


# autograd.Function takes tensors only at the top level of its arguments.
def _rows(updates: list[Update]) -> list[tuple[int, int]]:
    return [(u.start, u.stop) for u in updates]


def _flat(updates: list[Update]) -> list[Tensor]:
    return [tensor for u in updates for tensor in u[2:]]


def _unflat(rows: list[tuple[int, int]], flat: Any) -> list[Update]:
    return [Update(*span, *flat[5 * i : 5 * i + 5]) for i, span in enumerate(rows)]
