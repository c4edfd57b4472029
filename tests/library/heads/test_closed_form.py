"""Heads that are solved: from statistics alone, whatever the order, beside a training that they do not touch."""

import pytest
import torch
from torch.utils.data import DataLoader

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, load_adapters, merge, save_adapters
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.growing_head import MASKED
from tests.common import (
    MLP,
    learn_something,
    mlp,
    needs_bfloat16,
    plain,
    points_stream,
    snapshot,
    strategy_for,
    tiny_vit,
)
from tests.streams import STREAMS

KINDS = ["ncm", "lda", "ridge", "random_ridge"]


def config(kind, drift="none", **settings):
    return plain(
        **{"rank": 2, "targets": "*", "head": kind, "drift": drift, "expansion": 40, "held_out": None, **settings}
    )


def samples(n=90, d=6, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return 2 * torch.randn(classes, d, generator=g)[y] + torch.randn(n, d, generator=g), y


def learned(kind, batches, rows=3):
    head = ClosedFormHead(6, kind, expansion=40)
    head.learn(batches, rows)
    return head


def trained(settings, **kwargs):
    torch.manual_seed(0)
    strategy = strategy_for(config=settings, train_epochs=2)
    benchmark = points_stream(**kwargs)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return strategy, benchmark


@pytest.fixture(scope="module", params=KINDS)
def following(request):
    """A strategy that has learned a stream with a head that follows the features; the stream; a number drawn after."""
    strategy, benchmark = trained(config(request.param, "linear"))
    return strategy, benchmark, torch.rand(1)


def images(experience):
    data = experience.dataset.eval()
    rows = [data[i] for i in range(len(data))]
    return torch.stack([r[0] for r in rows]), torch.tensor([r[1] for r in rows]), torch.tensor([r[2] for r in rows])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_and_the_batches_of_the_samples_make_no_difference(kind):
    x, y = samples()
    x = x.double()  # in float32 the expansion of a sample would already depend on its batch, by rounding
    shuffled = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    by_class = y.argsort(stable=True)
    one = learned(kind, [(x, y)])
    many = learned(kind, [(x[i], y[i]) for i in shuffled.split(7)])
    later = learned(kind, [(x[by_class[60:]], y[by_class[60:]])])
    later.learn([(x[by_class[:60]], y[by_class[:60]])], 3)  # class by class, in two experiences
    for other in (many, later):
        torch.testing.assert_close(other.weight, one.weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(other.bias, one.bias, rtol=1e-6, atol=1e-8)
    assert (one(x).argmax(1) == y).double().mean() > 0.8


@pytest.fixture(scope="module")
def linear():
    strategy, _ = trained(MLP)
    return strategy, torch.rand(1)


def test_what_is_trained_is_the_same_to_the_bit_whatever_head_predicts(linear, following):
    (linear, after), (other, _, other_after) = linear, following
    assert torch.equal(other_after, after)  # the generators too
    state = other.model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in linear.model.state_dict().items())


def test_it_predicts_classes_of_all_tasks(following):
    strategy, benchmark, _ = following
    model = strategy.model.eval()
    assert not len(model.closed_form.before)
    hits = [(model(x).argmax(1) == y).double().mean() for x, y, _ in map(images, benchmark.test_stream)]
    assert min(hits) > 0.5
    assert sum(hits) / 5 > 0.85


def test_without_compensation_the_statistics_are_those_of_the_moment():
    strategy, benchmark = trained(config("ridge"))
    model = strategy.model.eval()
    x, y, _ = images(benchmark.train_stream[4])
    with torch.no_grad():
        features = model.features(x).double()
    statistics = model.closed_form.statistics
    for c in y.unique():
        row = statistics.labels.tolist().index(int(model.head.row_of[0, c]))
        torch.testing.assert_close(statistics.means[row], features[y == c].mean(0), rtol=1e-5, atol=1e-5)


def test_classes_that_return_are_averaged_over_their_experiences():
    x, y = samples()
    head = learned("ridge", [(x[:60], y[:60])])
    head.learn([(x[60:], y[60:])], 3)
    torch.testing.assert_close(head.weight, learned("ridge", [(x, y)]).weight)
    assert head.statistics.counts.tolist() == [30, 30, 30]


@pytest.mark.parametrize("kind", STREAMS)
def test_it_learns_every_kind_of_stream(kind):
    torch.manual_seed(0)
    strategy, benchmark = strategy_for(config=config("ridge", "linear")), STREAMS[kind]()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    model, hits = strategy.model.eval(), []
    for experience in benchmark.test_stream:
        for x, y, *labels in DataLoader(experience.dataset.eval(), batch_size=200):
            hits.append((model(x, *labels).argmax(1) == y).double().mean())
    assert sum(hits) / len(hits) > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_experiences_may_be_as_small_as_one_image(kind):
    x, y = samples()
    head = ClosedFormHead(6, kind, "linear", expansion=40)
    head.learn([(x[:1], y[:1])], 1)
    assert head(x).argmax(1).eq(0).all()
    for i in (1, 2):
        head.remember([x[i : i + 1]])
        head.learn([(x[i : i + 1], y[i : i + 1])], 3)
    assert torch.equal(head(x[:3]).argmax(1), y[:3])


@needs_bfloat16
def test_statistics_stay_in_float64_whatever_the_model_and_the_caller_compute_in():
    x, y = samples()
    expected = learned("random_ridge", [(x, y)])
    head = ClosedFormHead(6, "random_ridge", expansion=40).float()
    with torch.autocast("cpu", torch.bfloat16):
        head.learn([(x, y)], 3)
    head.bfloat16()
    assert torch.equal(head.statistics.second, expected.statistics.second)
    assert torch.equal(head.weight, expected.weight)


def test_class_labels_that_restart_in_every_task_have_rows_of_their_own():
    strategy, benchmark = trained(config("lda"), task_labels=True, class_ids_from_zero_in_each_exp=True)
    model = strategy.model.eval()
    assert len(model.closed_form.weight) == 10
    for x, y, labels in map(images, benchmark.test_stream):
        logits = model(x, labels)
        assert (logits.argmax(1) == y).double().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_features_that_move(kind):
    x, y = samples()
    mix = torch.eye(6) + 0.4 * torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    new, labels = samples(seed=1)
    head = ClosedFormHead(6, kind, "linear", expansion=40)
    head.learn([(x, y)], 3)
    head.remember(new.split(40))
    head.learn([(z @ mix.T, t + 3) for z, t in zip(new.split(25), labels.split(25))], 6)
    unmoved = ClosedFormHead(6, kind, expansion=40)
    unmoved.learn([(x, y), (new, labels + 3)], 6)
    torch.testing.assert_close(head(x @ mix.T), unmoved(x), rtol=1e-3, atol=1e-3)


def test_while_an_experience_is_learned_the_linear_head_predicts_and_evaluation_changes_nothing():
    strategy, benchmark = trained(config("random_ridge", "linear"), experiences=5)
    model, x = strategy.model.eval(), images(benchmark.test_stream[0])[0]
    solved = model(x)
    model.begin_experience({0: [10, 11]})
    before = snapshot(model)
    logits = model(x)
    torch.testing.assert_close(logits, model.head(model.features(x)))
    assert not torch.allclose(logits[:, :10], solved)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    fresh = SDLoRAModel(mlp(), model.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), logits)
    # Scores of any size leave those who do not compete behind.
    model.head.reserve(14)
    scores = torch.full((2, 12), -5000.0) + torch.arange(12.0)
    assert model.head.lay_out(scores, model.head.row_table()).argmax(1).tolist() == [11, 11]


def test_the_state_restores_it(following, tmp_path):
    strategy, benchmark, _ = following
    model = strategy.model.eval()
    x = images(benchmark.test_stream[2])[0]
    fresh = SDLoRAModel(mlp(), model.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))
    other = SDLoRAModel(mlp(), model.config).eval()
    save_adapters(model, tmp_path / "adapters", dtype=torch.bfloat16)
    load_adapters(other, tmp_path / "adapters")
    saved, kept = other.closed_form.state_dict(), model.closed_form.state_dict()
    assert all(torch.equal(saved[name], t) for name, t in kept.items())  # in full precision


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drift", ["none", "linear"])
@pytest.mark.parametrize("backbone", [mlp, tiny_vit])
def test_a_merged_network_gives_the_same_logits(kind, drift, backbone):
    targets = "*" if backbone is mlp else "attention.qv"
    model = SDLoRAModel(backbone(), config(kind, drift, targets=targets)).eval()
    x = torch.randn(30, 8) if backbone is mlp else torch.randn(30, 3, 32, 32)
    with torch.no_grad():
        for _ in range(2):
            if model.closed_form.follows:
                model.closed_form.remember([model.features(x)])
            model.begin_experience({0: [4, 1]})
            learn_something(model, 0.1)
            model.closed_form.learn([(model.features(x), torch.arange(30) % 2)], 2)
        plain = merge(model)
        torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
        assert (plain(x)[:, [0, 2, 3]] == MASKED).all()
    assert not any(type(m).__module__.startswith("avalanche_sdlora") for m in plain.modules())


def test_the_expansion_comes_from_its_seed():
    state = ClosedFormHead(6, "random_ridge", expansion=40, seed=3).state_dict()
    assert "expand.weight" not in state
    fresh = ClosedFormHead(6, "random_ridge", expansion=40)
    x = samples()[0]
    other = fresh.expand(x)
    fresh.load_state_dict(state)
    assert not torch.equal(fresh.expand(x), other)
    torch.testing.assert_close(fresh.expand.plain()(x), fresh.expand(x))


def test_bad_input_is_refused():
    for settings, message in [
        ({"head": "nmc"}, "head='nmc'"),
        ({"drift": "Linear"}, "drift='Linear'"),
        ({"head": "random_ridge", "expansion": 0}, "expansion=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            SDLoRAConfig(**settings)
    for settings, message in [({"kind": "nmc"}, "kind='nmc'"), ({"drift": "Linear"}, "drift='Linear'")]:
        with pytest.raises(ValueError, match=message):
            ClosedFormHead(**{"features": 6, "kind": "ncm", **settings})
    x, y = samples()
    with pytest.raises(ValueError, match="rows=2"):
        learned("ridge", [(x, y)], rows=2)
    for nothing in ([], [(x[:0], y[:0])]):
        with pytest.raises(ValueError, match="without images"):
            learned("ridge", nothing)
    head = learned("ridge", [(x, y)])
    head.remember([x[:5]])
    with pytest.raises(ValueError, match=r"90 images, but 5|same images"):
        head.learn([(x, y)], 3)
    with pytest.raises(ValueError, match="1 of the experience's 90 images are NaN"):
        head.remember([x.index_fill(0, torch.tensor([7]), float("nan"))])
