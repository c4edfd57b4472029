"""Features that move, and the way back."""

import pytest
import torch

from avalanche_sdlora.heads.drift import DriftMoments, Frame


def cloud(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + 2


def fitted(before, after):
    moments = DriftMoments(before.shape[1])
    for x, z in zip(before.split(7), after.split(7)):
        moments.update(x, z)
    return moments.fit()


def affine(d, seed=5):
    g = torch.Generator().manual_seed(seed)
    W = torch.eye(d, dtype=torch.float64) + 0.3 * torch.randn(d, d, generator=g, dtype=torch.float64)
    b = torch.randn(d, generator=g, dtype=torch.float64)
    return lambda x: x @ W.T + b


def test_features_are_brought_back_through_several_affine_drifts():
    frame, x = Frame(6), cloud(60, 6, seed=0)
    first = other = cloud(40, 6, seed=1)  # of another distribution
    for seed in range(3):
        move = affine(6, seed)
        frame.follow(fitted(x, move(x)))
        x, other = move(x), move(other)
    torch.testing.assert_close(frame(other), first, rtol=1e-6, atol=1e-6)


def test_where_nothing_moved_nothing_changes():
    frame, x = Frame(5), cloud(30, 5, seed=0)
    frame.follow(fitted(x, x))
    torch.testing.assert_close(frame(x), x)


def test_the_order_and_the_batches_of_the_samples_make_no_difference():
    x = cloud(60, 6, seed=0)
    z = affine(6)(x) + torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    one, other = fitted(x, z), fitted(x[order], z[order])
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-9, atol=1e-9)


def test_a_map_without_a_way_back_gives_finite_features():
    x = cloud(60, 4, seed=0)
    flat = x @ torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    frame = Frame(4)
    frame.follow(fitted(x, flat)._replace(weight=torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))))
    torch.testing.assert_close(frame(flat)[:, :3], x[:, :3], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(frame(flat)).all()


def test_a_shift_under_noise_is_found_as_a_shift():
    x = cloud(300, 6, seed=0)
    noise = torch.randn(300, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    drift = fitted(x, x + 4 + noise)
    assert (drift.weight - torch.eye(6)).norm() < 0.1
    torch.testing.assert_close(drift.bias, torch.full((6,), 4.0, dtype=torch.float64), atol=0.4, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_images_that_are_all_alike_show_no_more_than_a_shift(noise):
    x = (1 + noise * cloud(20, 192, seed=0)).float()
    drift = fitted(x, x + 0.5)
    torch.testing.assert_close(drift.weight, torch.eye(192, dtype=torch.float64), atol=0.05, rtol=0)
    torch.testing.assert_close(x.double() @ drift.weight.T + drift.bias, x.double() + 0.5, atol=1e-5, rtol=0)


def test_two_images_show_a_shift_in_either_order():
    x = cloud(2, 16, seed=4)
    z = x + cloud(2, 16, seed=5)
    one, other = fitted(x, z), fitted(x.flip(0), z.flip(0))
    torch.testing.assert_close(one.weight, other.weight)
    torch.testing.assert_close(one.weight, torch.eye(16, dtype=torch.float64), atol=1e-4, rtol=0)


def test_bad_input_is_refused():
    moments = DriftMoments(4)
    with pytest.raises(ValueError, match="NaN or infinite"):
        moments.update(torch.ones(5, 4), torch.full((5, 4), torch.nan))
    with pytest.raises(ValueError, match="same images"):
        moments.update(torch.ones(5, 4), torch.ones(4, 4))
    with pytest.raises(ValueError, match="of 0 samples"):
        moments.fit()
