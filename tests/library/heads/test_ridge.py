"""Closed-form classifiers from streaming statistics."""

import pytest
import torch

from avalanche_sdlora.heads.ridge import fit_ridge, ridge_scores
from avalanche_sdlora.heads.statistics import FeatureStatistics
from tests.library.samples import data, of


def dense(x, y, labels, penalty):
    """Ridge with an unpenalised intercept from the whole matrix, and its hat matrix."""
    x, targets = x.double(), (y[:, None] == labels).double()
    X, T = x - x.mean(0), targets - targets.mean(0)
    inverse = torch.linalg.inv(X.T @ X + penalty * torch.eye(x.shape[1]))
    weight = (inverse @ X.T @ T).T
    hat = X @ inverse @ X.T + 1 / len(x)
    return weight, targets.mean(0) - weight @ x.mean(0), ((targets - hat @ targets) ** 2).sum(), hat.trace()


def test_it_is_the_dense_solution():
    x, y = data()
    statistics = of(x, y)
    ridge = fit_ridge(statistics, 2.5)
    weight, bias, *_ = dense(x, y, statistics.labels, 2.5)
    torch.testing.assert_close(ridge.weight, weight)
    torch.testing.assert_close(ridge.bias, bias)


def test_the_penalty_has_the_least_score_of_generalised_cross_validation():
    x, y = data(seed=3)
    statistics = of(x, y)
    best = fit_ridge(statistics).penalty

    def score(penalty):
        *_, residual, freedom = dense(x, y, statistics.labels, penalty)
        return residual / (len(x) - freedom) ** 2

    assert all(score(best) <= score(best * factor) for factor in (0.01, 0.5, 0.75, 1.3, 2, 100))
    assert 1e-6 < best < 1e6


@pytest.mark.parametrize("penalty", [None, 2.5, 1e-12])
@pytest.mark.parametrize("uneven", [False, True])
def test_scores_without_weights_are_those_of_the_weights(penalty, uneven):
    x, y = data()
    statistics = of(x, torch.where(y == 1, 0, y) if uneven else y)
    ridge, new = fit_ridge(statistics, penalty), x[:9].double() + 1
    scores, chosen = ridge_scores(statistics, new, penalty)
    torch.testing.assert_close(scores, new @ ridge.weight.T + ridge.bias, rtol=1e-7, atol=1e-9)
    assert chosen == ridge.penalty


def test_the_order_of_samples_classes_and_tasks_makes_no_difference():
    x, y = data()
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    by_class = y.argsort(stable=True)
    results = []
    for batches in ([torch.arange(60)], shuffled.split(7), by_class.flip(0).split(15)):
        statistics = of(x, y, *batches)
        ridge, order = fit_ridge(statistics), statistics.labels.argsort()
        results.append((ridge.weight[order], ridge.bias[order], statistics.means[order]))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_fewer_samples_than_features_and_features_that_are_all_alike():
    x, y = data(n=12, d=30)
    ridge = fit_ridge(of(x, y))
    assert torch.isfinite(ridge.weight).all()
    same = fit_ridge(of(torch.ones(6, 3), torch.arange(6) % 2))
    torch.testing.assert_close(same.bias + same.weight.sum(1), torch.full((2,), 0.5, dtype=torch.float64))


def test_statistics_survive_in_a_state_dict():
    statistics = of(*data())
    fresh = FeatureStatistics(7)
    fresh.load_state_dict(statistics.state_dict())
    x, y = data(seed=1)
    for s in (statistics, fresh):
        s.update(x, y + 10)
    assert all(torch.equal(a, b) for a, b in zip(statistics.state_dict().values(), fresh.state_dict().values()))


def test_bad_input_is_refused_and_adds_nothing():
    x, y = data()
    statistics = of(x, y)
    before = statistics.second.clone()
    for bad, message in [((x[:, :3], y), r"expected shapes \(n, 7\)"), ((x / 0, y), "NaN or infinite")]:
        with pytest.raises(ValueError, match=message):
            statistics.update(*bad)
    assert torch.equal(statistics.second, before)
    with pytest.raises(ValueError, match="of no samples"):
        fit_ridge(FeatureStatistics(3))
    with pytest.raises(ValueError, match="penalty=0"):
        fit_ridge(statistics, 0)
