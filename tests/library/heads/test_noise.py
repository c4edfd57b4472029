"""Linear discriminants of classes of few samples beside classes of many."""

import pytest
import torch

from avalanche_sdlora.heads.discriminant import fit_lda
from avalanche_sdlora.heads.noise import length_of_noise
from tests.library.samples import of


@pytest.mark.parametrize(("scale", "level"), [(1.0, 0.1), (0.5, 1.0), (1.0, 1e-6), (0.0, 2.0)])
@pytest.mark.parametrize("freedom", [100, 300])
def test_it_is_the_length_of_samples_that_the_covariance_has_not_seen(scale, level, freedom):
    g = torch.Generator().manual_seed(freedom)
    spread = torch.linspace(0.1, 2, 200, dtype=torch.float64)
    seen, fresh = (spread * torch.randn(n, 200, generator=g, dtype=torch.float64) for n in (freedom, 4000))
    covariance = seen.T @ seen / freedom
    inverse = torch.linalg.inv(scale * covariance + level * torch.eye(200))
    length = ((fresh @ inverse) * fresh).sum(1).mean()
    assert length_of_noise(covariance, scale, level, freedom) == pytest.approx(float(length), rel=0.12)


def recalls(distance: float, few: int) -> tuple[float, float]:
    """Of 20 classes as far from each other, half of which show few samples and half 100: these, and those."""
    g = torch.Generator().manual_seed(1)
    centres = distance * torch.nn.functional.normalize(torch.randn(20, 60, generator=g), dim=1)
    counts = torch.tensor([100, few]).repeat(10)
    y, test_y = torch.arange(20).repeat_interleave(counts), torch.arange(20).repeat(100)
    x, test = (centres[t] + torch.randn(len(t), 60, generator=g) for t in (y, test_y))
    weight, bias = fit_lda(of(x, y))
    right = (test.double() @ weight.T + bias).argmax(1) == test_y
    return float(right[test_y % 2 == 1].double().mean()), float(right[test_y % 2 == 0].double().mean())


def test_classes_of_few_samples_are_found_and_do_not_swallow_others_that_are_near():
    rare, common = recalls(4.0, few=3)  # with means as they are 0.48 and 0.98
    assert rare > 0.65
    assert common > 0.9
    rare, common = recalls(1.5, few=2)  # 0.01 and 0.45
    assert rare > 0.03
    assert common > 0.35
