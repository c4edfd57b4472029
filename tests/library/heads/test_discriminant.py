"""Classifiers from class means."""

import torch
import torch.nn.functional as F

from avalanche_sdlora.heads.discriminant import fit_lda, fit_ncm, shrinkage
from avalanche_sdlora.heads.ridge import solve_ridge
from tests.library.samples import data, of


def shrunk(S, n):
    scale, level = shrinkage(S, n)
    return scale * S + level * torch.eye(len(S), dtype=S.dtype)


def test_nearest_class_mean_is_by_cosine():
    x, y = data()
    statistics = of(x, y)
    weight, bias = fit_ncm(statistics)
    cosine = F.normalize(x.double(), dim=1) @ F.normalize(statistics.means, dim=1).T
    assert torch.equal((x.double() @ weight.T + bias).argmax(1), cosine.argmax(1))


def test_discriminants_give_the_posterior_of_gaussians_with_the_pooled_covariance():
    x, y = data()
    x, statistics = x.double(), of(x, y)
    weight, bias = fit_lda(statistics)
    within = torch.cat([x[y == c] - x[y == c].mean(0) for c in statistics.labels])
    S = shrunk(within.T @ within / (60 - 4), 60 - 4)
    gaussians = [torch.distributions.MultivariateNormal(m, S) for m in statistics.means]
    posterior = torch.stack([g.log_prob(x) for g in gaussians], 1).softmax(1)
    torch.testing.assert_close((x @ weight.T + bias).softmax(1), posterior)


def test_shrinkage_vanishes_with_many_samples_and_is_complete_where_nothing_is_known():
    S = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    torch.testing.assert_close(shrunk(S, 1e9), S)
    flat = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(shrunk(3 * flat, 5), 3 * flat)
    torch.testing.assert_close(shrunk(0 * flat, 5), flat)


def test_where_no_class_varies_the_nearest_mean_wins():
    one_each, labels = data(n=4)
    alike, twice = one_each.repeat(3, 1), labels.repeat(3)
    x = data(seed=1)[0].double()
    for statistics in (of(one_each, labels), of(alike, twice), of(alike[1:], twice[1:])):
        weight, bias = fit_lda(statistics)
        nearest = torch.cdist(x, statistics.means).argmin(1)
        assert torch.equal((x @ weight.T + bias).argmax(1), nearest)


def test_features_that_are_all_alike_leave_even_probabilities_to_classes_of_any_size():
    weight, bias = fit_lda(of(torch.ones(9, 5), torch.tensor([0] * 6 + [1, 2, 2])))
    torch.testing.assert_close((torch.ones(5).double() @ weight.T + bias).softmax(0), torch.full((3,), 1 / 3).double())


def test_cross_validation_is_leave_one_out_where_all_samples_have_the_same_leverage():
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).double()  # all 16, so their mean is 0
    x = torch.cat([signs, signs[:, :1] * signs[:, 1:2]], dim=1)  # (16, 5)
    t = x[:, :2] + torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = t - t.mean(0)

    def left_out(penalty):
        error = 0.0
        for i in range(16):
            rest = torch.arange(16) != i
            a = torch.cat([x[rest], torch.ones(15, 1)], dim=1)  # the intercept is fitted without a penalty
            shrink = penalty * torch.diag(torch.tensor([1.0] * 5 + [0.0], dtype=torch.float64))
            fit = torch.linalg.solve(a.T @ a + shrink, a.T @ t[rest])
            error += (t[i] - torch.cat([x[i], torch.ones(1)]) @ fit).square().sum()
        return error

    gram = x.T @ x
    best = solve_ridge(gram, t.T @ x, t.square().sum(), torch.tensor(16.0), gram.trace()).penalty
    errors = [left_out(best * 10 ** (k / 10)) for k in range(-10, 11)]
    assert min(range(21), key=lambda k: errors[k]) == 10
