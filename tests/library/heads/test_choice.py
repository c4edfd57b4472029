"""The head that is chosen, and the experience that is taken back, by images that were held out."""

import copy

import pytest
import torch
from avalanche.core import SupervisedPlugin

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.heads.candidates import KINDS, candidates, unevenness
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.ridge import fit_ridge
from avalanche_sdlora.heads.trial import Images, Trial, fifth
from tests.common import mlp, points_stream, snapshot, strategy_for
from tests.library.samples import of

AUTO = SDLoRAConfig(rank=2, targets="*", expansion=40)


def ring(n=200, seed=0):
    """Two classes that no line parts: one inside the other."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g)
    return x, (x.norm(dim=1) > 1.2).long()


def clouds(n=24, d=40, classes=12, seed=0):
    """Two images a class in many dimensions: too few for a covariance of their own kind."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(classes, d, generator=g)[y] + 0.5 * torch.randn(n, d, generator=g), y


def head_of(x, y, kind):
    head = ClosedFormHead(x.shape[1], kind, expansion=200)
    head.learn([(x, y)], int(y.max()) + 1)
    return head


def every_fifth(y):
    return torch.arange(len(y)) % 5 == 0


def test_the_kind_that_suits_the_features_is_chosen():
    x, y = ring()
    head = ClosedFormHead(2, expansion=200)
    lesson = head.learn([(x, y)], 2, held=every_fifth(y))
    assert lesson.classifier.startswith("random_ridge")
    assert lesson.hits[lesson.classifier] > 1.2 * lesson.hits["lda"]
    for kind in KINDS:
        alone = ClosedFormHead(2, kind, expansion=200)
        alone.learn([(x, y)], 2, held=every_fifth(y))
        assert lesson.hits[alone.candidates[0].name] == alone.evidence.hits.item()
    assert (head(x).argmax(1) == head_of(x, y, "random_ridge")(x).argmax(1)).double().mean() > 0.95


@pytest.mark.parametrize("drift", ["none", "linear"])
@pytest.mark.parametrize("uneven", [False, True])
def test_a_mixture_multiplies_the_probabilities_of_its_parts_also_as_plain_layers(drift, uneven):
    x, y = clouds(n=240)
    if uneven:
        kept = (y > 2) | (torch.arange(240) % 5 == 0)
        x, y = x[kept], y[kept]
    head = ClosedFormHead(40, drift=drift, expansion=50)
    head.learn([(x, y)], 12, held=every_fifth(y))
    if head.frame is not None:
        g = torch.Generator().manual_seed(2)
        head.frame.weight.copy_(torch.randn(40, 40, generator=g) / 40**0.5)
        head.frame.bias.copy_(torch.randn(40, generator=g))
    shares, parts = head.candidates[0].shares(head.statistics.counts), {}
    assert len(shares) == 2 + uneven
    for i in (*shares, 0):
        head.evidence.won.copy_(100 * (torch.arange(len(head.candidates)) == i))
        head.evidence.lost.zero_()
        head._commit(
            Trial(head.frame, dict(head.sums), head._trials.gathered(x[:0], y[:0], None, head.sums), [], None),
            12,
            [None] * len(head._trials.alone),
        )
        assert head.chosen == i
        parts[i] = head(x).double() * head.temperature / (head.evidence.temperature(i) if i else 1.0)
    product = sum(share * parts[i] for i, share in shares.items()) / head.temperature
    torch.testing.assert_close(parts[0] / head.temperature, product, rtol=1e-4, atol=1e-4)
    expansion, weight, bias = head.plain()
    plain = torch.nn.functional.linear(expansion(x).double(), weight, bias)
    torch.testing.assert_close(plain, head(x).double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_images_held_out_count_like_all_others_in_the_end(kind):
    x, y = clouds(n=96)
    judged = ClosedFormHead(40, kind, expansion=200)
    judged.learn([(x, y)], 12, held=every_fifth(y))
    statistics = head_of(x, y, kind).statistics
    torch.testing.assert_close(judged.statistics.second, statistics.second)
    assert judged.statistics.counts.tolist() == statistics.counts.tolist()


def test_statistics_of_an_expansion_contain_those_of_its_first_units():
    x, y = ring()
    head = head_of(x, y, "random_ridge")
    alone = of(head.expand(x)[:, :30], y)
    for statistics in (head.statistics.of_first(30), alone):
        solved = candidates("random_ridge", 30)[0].solve(statistics)
    torch.testing.assert_close(solved.weight, fit_ridge(alone).weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(head.statistics.of_first(30).means, alone.means)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_with_most_of_the_images_does_not_swallow_the_others(kind):
    g = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 8, generator=g)
    y, test_y = torch.tensor([0] * 900 + [1, 2, 3] * 30), torch.arange(4).repeat(100)
    x, test = (centres[t] + torch.randn(len(t), 8, generator=g) for t in (y, test_y))
    predicted = head_of(x, y, kind)(test).argmax(1)
    assert min(float((predicted[test_y == c] == c).double().mean()) for c in range(4)) > 0.8


def test_balanced_ridge_is_ridge_of_samples_weighed_where_the_classes_spread_alike():
    """Two classes mirrored about their means have one covariance; weighing each sample then gives the formula."""
    g = torch.Generator().manual_seed(0)
    spread = torch.randn(20, 3, generator=g, dtype=torch.float64)
    shape = torch.cat([spread, -spread])
    centre = torch.randn(2, 3, generator=g, dtype=torch.float64)
    x = torch.cat([centre[0] + shape, *[centre[1] + shape] * 5])
    y = torch.tensor([0] * 40 + [1] * 200)
    ridge = fit_ridge(of(x, y), 7.0)
    w = torch.where(y == 0, 3.0, 0.6).double()[:, None]  # n / (C n_c)
    t = torch.nn.functional.one_hot(y, 2).double()
    X, T = x - (w * x).sum(0) / w.sum(), t - (w * t).sum(0) / w.sum()
    weight = torch.linalg.solve(X.T @ (w * X) + 7.0 * torch.eye(3), X.T @ (w * T)).T
    torch.testing.assert_close(ridge.weight, weight)


def test_a_known_penalty_gives_the_solution_that_eigenvalues_give():
    x, y = clouds(n=96)
    statistics = of(x, y)
    chosen = fit_ridge(statistics)
    torch.testing.assert_close(fit_ridge(statistics, chosen.penalty).weight, chosen.weight)


class Harm(SupervisedPlugin):
    """Stands for training that ruins the features: it ends with every unit of the last hidden layer switched off."""

    def __init__(self, experience):
        super().__init__()
        self.experience = experience

    def after_training_epoch(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == self.experience:
            last = projections_of(strategy.model)[-1]  # its inputs are positive
            with torch.no_grad():
                last.A.fill_(1.0)
                last.B.fill_(-100.0)


@pytest.mark.slow
@pytest.mark.parametrize("harmed", [0, 2])
def test_an_experience_that_harms_the_features_is_taken_back(harmed):
    torch.manual_seed(0)
    strategy, benchmark = strategy_for(config=AUTO, train_epochs=3, plugins=[Harm(harmed)]), points_stream()
    x = torch.stack([benchmark.test_stream[0].dataset[i][0] for i in range(20)])
    for k, experience in enumerate(benchmark.train_stream):
        before = strategy.model.eval().features(x).detach() if k else None
        strategy.train(experience)
        after = strategy.model.eval().features(x).detach()
        if k == harmed:
            assert strategy.model.decision["kept"] is False
            assert strategy.model.decision["right"] >= strategy.model.decision["right_before"]
            if before is not None:
                torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    results = [
        strategy.model(torch.stack([d[0] for d in (e.dataset[i] for i in range(len(e.dataset)))])).argmax(1)
        for e in benchmark.test_stream
    ]
    truth = [torch.tensor([int(t) for t in e.dataset.targets]) for e in benchmark.test_stream]
    assert torch.cat(results).eq(torch.cat(truth)).double().mean() > 0.85


@pytest.mark.slow
def test_no_experience_may_harm():
    g = torch.Generator().manual_seed(0)
    y, held = torch.arange(120) % 2, torch.arange(120) % 4 < 2
    noise = torch.randn(120, 8, generator=g)
    apart = noise + 3 * torch.nn.functional.one_hot(y, 8)

    def kept(head, before, after, labels):
        head.remember([before])
        return head.learn([(after, labels)], 4, held=held, may_go_back=True).kept

    assert kept(moved := ClosedFormHead(8, expansion=50), noise, apart, y)
    assert not kept(unmoved := ClosedFormHead(8, expansion=50), apart, noise, y)
    assert not kept(unmoved, apart, apart, y + 2)  # nothing gained, and nothing kept so far
    assert not kept(copy.deepcopy(moved), apart, noise, y + 2)
    assert kept(moved, apart, apart, y + 2)


def test_features_before_the_first_experience_are_judged_as_if_there_were_no_others():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 4
    before = torch.randn(120, 8, generator=g) + torch.nn.functional.one_hot(y, 8)
    heads = [ClosedFormHead(8, expansion=50) for _ in range(2)]
    heads[0].remember([before])
    moved = heads[0].learn([(100 * torch.randn(120, 8, generator=g), y)], 4, held=every_fifth(y), may_go_back=True)
    alone = heads[1].learn([(before, y)], 4, held=every_fifth(y))
    assert moved.loss_before == pytest.approx(alone.loss)


def test_images_in_the_place_of_old_classes_stay_in_their_order():
    """Features that stay where they are are recognised as before, image by image."""
    x, y = clouds(n=240)
    x = x + 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    head = ClosedFormHead(40, drift="linear", expansion=50)
    head.learn([(x, y)], 12, held=every_fifth(y))
    head.remember([x])
    images = Images(x, y, every_fifth(y), None)
    before = head._trials.attempt(images, dict(head.sums), head.frame)
    as_old = head._trials.of_old_classes(dict(head.sums), before, x, images)
    assert not before.verdict.right.all()
    assert torch.equal(as_old.right[1:], before.verdict.right[1:])  # of a mixture, temperatures may differ


def test_a_fifth_of_each_class_is_judged_before_anything_is_learned_of_it():
    """What judges them are the statistics of all images but these, whichever were held out for other reasons."""
    x, y = clouds(n=240)
    head, other = (ClosedFormHead(40, drift="linear", expansion=50) for _ in range(2))
    head.learn([(x, y)], 24, held=every_fifth(y))
    z, new = x + 1, y + 12
    looks = []
    for held in (every_fifth(y), torch.arange(240) % 7 == 0):
        images = Images(z, new, held, None)
        before = head._trials.attempt(images, dict(head.sums), head.frame)
        looks.append(head._trials.ahead(before, images))
    unseen = fifth(new)
    assert torch.equal(looks[0].right[1:], looks[1].right[1:])  # a mixture has the temperatures of what is held out
    assert looks[0].right.shape == (len(head.candidates), 48) == (len(head.candidates), int(unseen.sum()))
    other.learn([(torch.cat([x, z[~unseen]]), torch.cat([y, new[~unseen]]))], 24)
    lda = [c.kind for c in head.candidates].index("lda")
    alone = other.candidates[lda].solve(other.sums["features"])
    right = (z[unseen].double() @ alone.weight.T + alone.bias).argmax(1) == new[unseen]
    assert (looks[0].right[lda] == right).double().mean() > 0.9  # means of fewer images are steadied in one of them


def test_every_fifth_image_of_a_class_is_one_in_five_of_its_own():
    y = torch.tensor([7] * 11 + [3] * 4 + [5] * 5)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    unseen = fifth(y)
    assert {c: int(unseen[y == c].sum()) for c in (7, 3, 5)} == {7: 2, 3: 0, 5: 1}
    assert not fifth(y[:0]).any()


def test_images_held_out_do_not_make_their_classes_ones_of_few_samples(monkeypatch):
    monkeypatch.setattr("avalanche_sdlora.heads.discriminant.steadied", None)  # which only classes of other sizes need
    x, y = clouds(n=240)
    head = ClosedFormHead(40, "lda", drift="linear")
    for first in (0, 6):  # the second time, beside classes whose images all count
        own = (y >= first) & (y < first + 6)
        head.remember([x[own]])
        head.learn([(x[own], y[own])], 12, held=every_fifth(y[own]), may_go_back=True)
    assert head.evidence.held > 0


def test_held_out_images_are_never_trained_on_and_the_state_restores_the_choice():
    torch.manual_seed(0)
    strategy, benchmark = strategy_for(config=AUTO, train_epochs=1), points_stream()
    seen = []
    strategy.plugins.append(Seen(seen))
    strategy.train(benchmark.train_stream[0])
    assert len(torch.cat(seen).unique(dim=0)) == 36  # of 40, two of each class were held out
    assert strategy.model.closed_form.statistics.counts.sum() == 40
    model = strategy.model.eval()
    fresh = SDLoRAModel(mlp(), AUTO).eval()
    fresh.load_state_dict(snapshot(model))
    x = torch.randn(7, 8)
    assert torch.equal(fresh(x), model(x))


class Seen:
    def __init__(self, seen):
        self.seen = seen

    def __getattr__(self, name):
        if name.startswith(("before_", "after_")):
            return lambda strategy, **kwargs: self.seen.append(strategy.mb_x) if name == "after_forward" else None
        raise AttributeError(name)


@pytest.mark.parametrize("settings", [{"held_out": 0.0}, {"held_out": 0.6}, {"expansion": 0}, {"head": "best"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        SDLoRAConfig(**settings)


def test_the_nearest_class_mean_counts_by_how_much_classes_differ_in_size():
    assert unevenness(torch.tensor([7.0, 7.0, 7.0])) == 0
    assert unevenness(torch.tensor([1.0, 3.0])) == pytest.approx(1 - 1.5 / 2)
    assert unevenness(torch.tensor([1.0, 1e9])) == pytest.approx(1)
    mixture = candidates("auto", 10)[0]
    assert [candidates("auto", 10)[i].kind for i in mixture.parts] == ["random_ridge", "lda", "ncm"]
    assert list(mixture.shares(torch.tensor([5.0, 5.0])).values()) == [1, 1]
    assert list(mixture.shares(torch.tensor([1.0, 3.0])).values()) == [1, 1, pytest.approx(0.25)]
