"""Factors against the matrices they stand for."""

import pytest
import torch

from avalanche_sdlora.adapter.factors import fit_direction, spectrum

torch.manual_seed(0)


def factors(r, d_in=9, d_out=7):
    return torch.randn(r, d_in, dtype=torch.float64), torch.randn(d_out, r, dtype=torch.float64)


@pytest.mark.parametrize("r", [0, 1, 3, 12])
def test_the_spectrum_is_that_of_the_product(r):
    A, B = factors(r)
    U, S, Vh = parts = spectrum(A, B)
    torch.testing.assert_close((U * S) @ Vh, B @ A)
    torch.testing.assert_close(S, torch.linalg.svdvals(B @ A)[: len(S)])
    assert parts.rank() == min(r, 7)
    low_A, low_B = parts.factors(2)
    tail = torch.linalg.svdvals(B @ A)[2:].norm()
    torch.testing.assert_close(torch.linalg.norm(B @ A - low_B @ low_A), tail)


def test_energy_keeps_the_smallest_sufficient_rank():
    def rank(energy, *values):
        S = torch.tensor(values, dtype=torch.float64)
        return spectrum(S.diag(), torch.eye(len(S), dtype=torch.float64)).rank_for_energy(energy)

    assert [rank(e, 3, 4, 0) for e in (0.5, 0.64, 0.65, 1.0)] == [1, 1, 2, 2]
    assert rank(0.9, 1e-200, 1e-200) == 2  # whose squares are 0
    assert rank(0.9, 0, 0) == 0


def dense(A, B, owner, t):
    return torch.stack([(B[:, owner == k] @ A[owner == k]).flatten() for k in range(t)], 1)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_fit_is_the_dense_least_squares(scale):
    A, B = factors(6)
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    new_A, new_B = factors(2)
    fit = fit_direction(new_A * scale, new_B * scale, A, B, owner, 3)
    D = (new_B @ new_A).flatten() / torch.linalg.norm(new_B @ new_A)
    solution = torch.linalg.lstsq(dense(A, B, owner, 3), D[:, None])
    torch.testing.assert_close(fit.coefficients, solution.solution[:, 0])
    assert fit.residual == pytest.approx(float(torch.linalg.norm(dense(A, B, owner, 3) @ fit.coefficients - D)))


def test_dependent_equal_and_zero_directions_have_a_finite_fit():
    A, B = factors(2)
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    fit = fit_direction(A, B, torch.cat([A, A, A]), torch.cat([B, -3 * B, 0 * B], 1), owner, 3)
    assert fit.residual < 1e-7
    D = dense(torch.cat([A, A, A]), torch.cat([B, -3 * B, 0 * B], 1), owner, 3) @ fit.coefficients
    torch.testing.assert_close(D, (B @ A / torch.linalg.norm(B @ A)).flatten())
    assert fit.coefficients[2] == 0


def test_unrelated_directions_have_residual_1_and_a_zero_direction_0():
    eye = torch.eye(4, dtype=torch.float64)
    owner = torch.zeros(1, dtype=torch.long)
    assert fit_direction(eye[1:2], eye[:, 1:2], eye[:1], eye[:, :1], owner, 1).residual == pytest.approx(1)
    zero = fit_direction(eye[1:2], 0 * eye[:, 1:2], eye[:1], eye[:, :1], owner, 1)
    assert zero.residual == 0
    assert not zero.coefficients.any()
