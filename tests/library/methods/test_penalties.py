"""The formulas of the low-rank methods beside SD-LoRA."""

import pytest
import torch

from avalanche_sdlora.methods.penalties import magnitude_of_update, overlap, random_subspace, subspace_energy
from avalanche_sdlora.methods.subspace import extend, free_rows


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_overlap_is_zero_for_orthogonal_rows_and_descending_it_makes_them_so():
    past = randn(3, 8)
    complement = torch.linalg.svd(past).Vh[3:5]
    assert overlap(complement, past) < 1e-5
    assert overlap(randn(2, 8, seed=1), past[:0]) == 0
    A = randn(2, 8, seed=1).requires_grad_()
    before = overlap(A, past)
    for _ in range(1000):
        (gradient,) = torch.autograd.grad(overlap(A, past), A)
        A.data -= 0.005 * gradient
    assert overlap(A, past) < 0.05 * before
    assert A.norm() > 0.5  # not by vanishing


def test_overlap_counts_rows_at_unit_length():
    A, past = randn(2, 8), randn(3, 8, seed=1)
    expected = sum(abs(a @ p) / p.norm() for a in A for p in past)
    torch.testing.assert_close(overlap(A, 7 * past), expected)


def test_the_magnitude_of_an_update_is_that_of_the_product():
    A, B = randn(2, 3), randn(5, 2, seed=1)
    torch.testing.assert_close(magnitude_of_update(A, B), sum(x.abs() for x in (B @ A).flatten()))
    assert magnitude_of_update(A, 0 * B) == 0


def test_subspace_energy_is_zero_exactly_outside_the_subspaces():
    P, Q = random_subspace(8, 4, seed=1), random_subspace(6, 3, seed=2)
    torch.testing.assert_close(P.T @ P, torch.eye(4))
    A, B = randn(2, 8), randn(6, 2)
    outside = A - A @ P @ P.T, B - Q @ (Q.T @ B)
    assert subspace_energy(*outside, P, Q) < 1e-10
    torch.testing.assert_close(
        subspace_energy(A, B, P, Q), ((A - outside[0]).square().sum() + (B - outside[1]).square().sum()) / 2
    )


def test_free_rows_are_the_strongest_directions_outside_the_protected_subspace():
    x = randn(50, 6).double() * torch.tensor([5.0, 4, 3, 2, 1, 0.5])
    basis = torch.eye(6, dtype=torch.float64)[:, :1]
    rows = free_rows(x.T @ x, basis, 2)
    assert torch.equal(rows @ basis, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(3 * rows @ rows.T, torch.eye(2, dtype=torch.float64))
    rest = x[:, 1:]
    leading = torch.linalg.svd(rest, full_matrices=False).Vh[:2]
    torch.testing.assert_close(((rows[:, 1:] * 3**0.5) @ leading.T).abs(), torch.eye(2, dtype=torch.float64))


def test_free_rows_are_zero_where_nothing_is_left():
    x = randn(50, 6).double()
    basis = torch.linalg.qr(randn(6, 5).double()).Q
    norms = free_rows(x.T @ x, basis, 3).norm(dim=1)
    assert norms[0] > 0.5
    assert torch.equal(norms[1:], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0.5, 0.95, 1.0])
def test_the_protected_subspace_grows_to_the_threshold_and_no_further(threshold):
    basis = torch.empty(6, 0, dtype=torch.float64)
    for task in range(3):
        x = randn(50, 6, seed=task).double() * randn(6, seed=10 + task).double() ** 3
        moment = x.T @ x
        before, basis = basis, extend(basis, moment, threshold)
        assert torch.equal(basis[:, : before.shape[1]], before)
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))

        def share(M, moment=moment):
            return 1 - (moment - M @ M.T @ moment).square().sum() / moment.square().sum()

        assert share(basis) >= threshold - 1e-12
        if basis.shape[1] > before.shape[1]:
            assert share(basis[:, :-1]) < threshold
    assert torch.equal(extend(basis, moment, threshold), basis)
