"""The adapted layer against the dense formula, in float64."""

import pytest
import torch
import torch.nn.functional as F

from avalanche_sdlora.adapter.functional import (
    Update,
    adapted_linear,
    adapted_weight,
    factors_norm,
    merged_weight,
    product_norm,
)
from tests.common import needs_bfloat16

# Few tokens: gradients go through them. Many tokens and a large total rank: gradients go through dW.
THROUGH_TOKENS, THROUGH_WEIGHT = (3, 2), (64, 30)


def problem(tokens, frozen, rank=2, out=8, d=6, dtype=torch.float64):
    torch.manual_seed(0)
    make = lambda *shape: torch.randn(*shape, dtype=dtype)  # noqa: E731
    factors = [
        (make(frozen + rank).requires_grad_(), make(frozen, d), make(out, frozen), make(rank, d), make(out, rank))
        for _ in range(2)
    ]
    for _, _, _, A, B in factors:
        A.requires_grad_(), B.requires_grad_()
    updates = [Update(start, start + out, *f) for start, f in zip((0, 2 * out), factors)]  # query and value of a qkv
    return make(tokens, d).requires_grad_(), make(3 * out, d), make(3 * out), updates


def dense(weight, updates):
    """W0 + sum_j c_j B_j A_j, column by column."""
    W = weight.clone()
    for u in updates:
        A, B = torch.cat([u.bank_A, u.A]), torch.cat([u.bank_B, u.B], 1)
        delta = sum(u.c[j] * torch.outer(B[:, j], A[j]) for j in range(len(A)))
        W = torch.cat([W[: u.start], W[u.start : u.stop] + delta, W[u.stop :]])
    return W


def leaves(x, updates):
    return [x, *(t for u in updates for t in (u.c, u.A, u.B))]


@pytest.mark.parametrize(("tokens", "frozen"), [THROUGH_TOKENS, THROUGH_WEIGHT, (3, 0)])
def test_forward_and_gradients_equal_the_dense_formula(tokens, frozen):
    x, W0, bias, updates = problem(tokens, frozen)
    ours, expected = adapted_linear(x, W0, bias, updates), F.linear(x, dense(W0, updates), bias)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, leaves(x, updates), g) for y in (ours, expected))):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("tokens", "frozen"), [THROUGH_TOKENS, THROUGH_WEIGHT])
def test_float32_gradients_are_those_of_the_dense_formula_to_1e_5(tokens, frozen):
    x, W0, bias, updates = problem(tokens, frozen, dtype=torch.float32)
    exact_updates = [
        u._replace(**{k: getattr(u, k).double() for k in ("c", "bank_A", "bank_B", "A", "B")}) for u in updates
    ]
    exact_x = x.detach().double().requires_grad_()
    exact = F.linear(exact_x, dense(W0.double(), exact_updates), bias.double())
    g = torch.randn_like(exact)
    ours = torch.autograd.grad(adapted_linear(x, W0, bias, updates), leaves(x, updates), g.float())
    expected = torch.autograd.grad(exact, [exact_x, *leaves(x, updates)[1:]], g)
    for a, b in zip(ours, expected):
        assert (a - b).norm() / b.norm() < 1e-5


@pytest.mark.parametrize(("tokens", "frozen"), [THROUGH_TOKENS, (12, 14)])
def test_gradcheck(tokens, frozen):
    x, W0, bias, updates = problem(tokens, frozen, rank=1, out=3, d=3)

    def layer(x, *flat):
        changed = [u._replace(c=c, A=A, B=B) for u, c, A, B in zip(updates, flat[::3], flat[1::3], flat[2::3])]
        return adapted_linear(x, W0, bias, changed), adapted_weight(W0, changed)

    assert torch.autograd.gradcheck(layer, leaves(x, updates))


def test_inputs_of_any_leading_shape():
    x, W0, bias, updates = problem(12, 3)
    torch.testing.assert_close(
        adapted_linear(x.reshape(2, 3, 2, -1), W0, bias, updates).reshape(12, -1), adapted_linear(x, W0, bias, updates)
    )


@needs_bfloat16
@pytest.mark.parametrize(("tokens", "frozen"), [THROUGH_TOKENS, THROUGH_WEIGHT])
def test_bfloat16_gradients_are_those_of_float32_to_its_precision(tokens, frozen):
    x, W0, bias, updates = problem(tokens, frozen, dtype=torch.float32)
    exact = torch.autograd.grad(adapted_linear(x, W0, bias, updates).square().sum(), leaves(x, updates))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = adapted_linear(x, W0, bias, updates)
    assert y.dtype == torch.bfloat16
    rounded = torch.autograd.grad(y.float().square().sum(), leaves(x, updates))
    for a, b in zip(rounded, exact):
        assert a.dtype == torch.float32
        assert (a - b).norm() / b.norm() < 0.02


def test_norms_from_the_factors():
    A, B = torch.randn(3, 9, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(product_norm(A, B), (B @ A).norm())
    torch.testing.assert_close(factors_norm(A, B), B.norm() * A.norm())
    assert product_norm(A.float() * 1e-30, B.float() * 1e-15) > 0  # no underflow on the way
    assert product_norm(A, torch.zeros_like(B)) == 0


def test_the_frozen_weight_is_untouched():
    _, W0, _, updates = problem(3, 2)
    before = W0.clone()
    assert not torch.equal(merged_weight(W0, updates), W0)
    assert torch.equal(W0, before)


@needs_bfloat16
def test_bfloat16_keeps_an_update_that_is_smaller_than_its_rounding_of_the_weight():
    torch.manual_seed(0)
    W0, c = torch.rand(256, 64) + 1, torch.ones(1)
    u = Update(0, 256, c, torch.empty(0, 64), torch.empty(256, 0), torch.ones(1, 64), torch.full((256, 1), 1e-3))
    moved = merged_weight(W0, [u], torch.bfloat16).float() - W0.bfloat16().float()
    torch.testing.assert_close(moved.mean(), torch.tensor(1e-3), rtol=0.2, atol=0)  # one rounding step is 8e-3
