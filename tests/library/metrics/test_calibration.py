"""The expected calibration error is what its definition says."""

import numpy as np
import pytest
import torch

from avalanche_sdlora.metrics import AccuracyMatrix, expected_calibration_error, reliability
from avalanche_sdlora.metrics.predictions import PredictionMetrics, class_recalls


def test_it_is_the_mean_gap_of_the_bins():
    # Two bins: (0, 0.5] and (0.5, 1]. In the second confidences 0.6, 0.8, 1.0, of which one is right.
    probabilities = torch.tensor([[0.6, 0.4], [0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    labels = torch.tensor([0, 0, 1, 0])
    expected = 3 / 4 * abs(1 / 3 - 0.8) + 1 / 4 * abs(1 - 0.5)
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(expected)
    found = reliability(torch.tensor([0.6, 0.8, 1.0, 0.5]), torch.tensor([True, False, False, True]), 2)
    assert found.counts.tolist() == [1, 3]
    assert found.confidence.tolist() == pytest.approx([0.5, 0.8])


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_their_excess():
    g = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(20_000, generator=g)
    right = torch.rand(20_000, generator=g) < p
    calibrated = torch.stack([p, 1 - p], 1)
    assert expected_calibration_error(calibrated, (~right).long()) < 0.015
    sure = torch.tensor([[1.0, 0.0]]).expand(20_000, -1)
    assert expected_calibration_error(sure, (~right).long()) == pytest.approx(float((~right).double().mean()))


def test_what_chance_alone_shows_is_the_error_of_confidences_that_hold():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(40, 1000, generator=g) ** 0.5
    found = [reliability(own, torch.rand(1000, generator=g) < own) for own in p]
    errors, by_chance = (torch.tensor([getattr(f, name)() for f in found]) for name in ("error", "by_chance"))
    assert float(by_chance.mean()) == pytest.approx(float(errors.mean()), rel=0.07)


@pytest.mark.parametrize(
    ("probabilities", "labels", "bins", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0), 15, "n at least 1"),
        (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), 15, "within 0 and 1"),
        (torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]), 15, "within 0 and 1"),
        (torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 0, "bins=0"),
        (torch.tensor([1.0, 0.0]), torch.tensor([0]), 15, r"expected \(n, classes\)"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, labels, bins)


def test_balanced_accuracy_counts_a_rare_class_as_much_as_a_frequent_one():
    labels, predicted = np.array([0] * 90 + [1] * 10), np.array([0] * 100)
    assert class_recalls(labels, predicted) == {0: 100.0, 1: 0.0}
    metric = PredictionMetrics()
    metric._arrays = {0: (labels, predicted, np.full(100, 0.9), labels)}
    assert metric.reliability().error() == pytest.approx(0.0)
    assert metric.recalls() == {0: 100.0, 1: 0.0}
    summary = AccuracyMatrix.from_rows([[90.0]], [100], 50.0).summary()
    assert (summary["acc"], summary["balanced_acc"]) == (90.0, 50.0)
