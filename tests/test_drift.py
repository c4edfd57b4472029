"""Features that move, and statistics that move along."""

import pytest
import torch

from avalanche_sdlora.drift import DriftMoments, transport
from avalanche_sdlora.statistics import FeatureStatistics


def cloud(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + 2, torch.arange(n) % 3


def fitted(before, after):
    moments = DriftMoments(before.shape[1])
    for x, z in zip(before.split(7), after.split(7)):
        moments.update(x, z)
    return moments.fit()


def of(x, y):
    statistics = FeatureStatistics(x.shape[1])
    statistics.update(x, y)
    return statistics


def affine(d, seed=5):
    g = torch.Generator().manual_seed(seed)
    W = torch.eye(d, dtype=torch.float64) + 0.3 * torch.randn(d, d, generator=g, dtype=torch.float64)
    b = torch.randn(d, generator=g, dtype=torch.float64)
    return lambda x: x @ W.T + b


def test_an_affine_drift_is_carried_exactly():
    move = affine(6)
    new, _ = cloud(60, 6, seed=0)
    old, y = cloud(40, 6, seed=1)  # of another distribution
    statistics = of(old, y)
    transport(statistics, fitted(new, move(new)))
    for name, tensor in of(move(old), y).state_dict().items():
        torch.testing.assert_close(statistics.state_dict()[name], tensor, rtol=1e-6, atol=1e-5)


def test_no_drift_changes_nothing():
    x, y = cloud(30, 5, seed=0)
    statistics = of(x, y)
    transport(statistics, fitted(x, x))
    torch.testing.assert_close(statistics.second, of(x, y).second, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(statistics.sums, of(x, y).sums, rtol=1e-9, atol=1e-9)


def test_a_shift_under_noise_is_found_as_a_shift():
    x, _ = cloud(300, 6, seed=0)
    noise = torch.randn(300, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    drift = fitted(x, x + 4 + noise)
    assert (drift.weight - torch.eye(6)).norm() < 0.1
    torch.testing.assert_close(drift.bias, torch.full((6,), 4.0, dtype=torch.float64), atol=0.4, rtol=0)


def test_what_the_map_cannot_say_comes_back_as_spread():
    d, move = 4, affine(4)
    g = torch.Generator().manual_seed(2)
    root = torch.randn(d, d, generator=g, dtype=torch.float64)
    new, _ = cloud(20_000, d, seed=0)
    old, y = cloud(20_000, d, seed=1)
    noisy = [move(x) + torch.randn(len(x), d, generator=g, dtype=torch.float64) @ root for x in (new, old)]
    drift = fitted(new, noisy[0])
    statistics = of(old, y)
    transport(statistics, drift)
    torch.testing.assert_close(drift.residual, root.T @ root, rtol=0.05, atol=0.05)
    without = of(old, y)
    transport(without, drift._replace(residual=0 * drift.residual))
    expected = of(noisy[1], y).second
    assert (without.second - expected).norm() > 5 * (statistics.second - expected).norm()


def test_bad_input_is_refused():
    moments = DriftMoments(4)
    with pytest.raises(ValueError, match="same images"):
        moments.update(torch.ones(5, 4), torch.ones(4, 4))
    with pytest.raises(ValueError, match="of 0 samples"):
        moments.fit()
