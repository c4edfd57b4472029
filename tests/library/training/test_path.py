"""The way that the weights travel while an experience is learned is bounded, whatever the optimizer does."""

from functools import partial

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.optim import SGD, Adam

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.functional import merged_weight
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.training.path import LARGEST_HEAD_STEP, LARGEST_STEP, PathLimit, path_of, profile, steps_of
from tests.common import (
    adapted_mlp,
    learn_something,
    optimized,
    plain,
    points_stream,
    snapshot,
    strategy_for,
    tiny_vit,
)
from tests.interrupted import Leave

SETTINGS = {"rank": 2, "targets": "*", "head": "linear", "first_epochs": 1}
LIMITED = SDLoRAConfig(**SETTINGS)


def weights(model):
    return [merged_weight(a.base.weight, a.updates()).double() for a in model._adapters.values()]


def frozen_norm(model):
    return torch.stack([torch.linalg.norm(a.base.weight.double()) for a in model._adapters.values()]).norm()


def distance(model, before):
    parts = [torch.linalg.norm(a - b) for a, b in zip(weights(model), before)]
    return float(torch.stack(parts).norm() / frozen_norm(model))


class Steps:
    """Measures every step on the dense weights."""

    def __init__(self):
        self.sizes, self.head = [], []

    def before_update(self, strategy, **kwargs):
        self.before = weights(strategy.model)
        self.rows = strategy.model.head.weight.detach().clone()

    def after_update(self, strategy, **kwargs):
        self.sizes.append(distance(strategy.model, self.before))
        moved = torch.linalg.norm(strategy.model.head.weight.detach() - self.rows)
        self.head.append(float(moved / torch.linalg.norm(self.rows)))

    def __getattr__(self, name):
        if name.startswith(("before_", "after_")):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=10.0, momentum=0.9), partial(Adam, lr=0.5)])
@pytest.mark.parametrize("epochs", [1, 4])
def test_no_learning_rate_takes_the_weights_further_than_the_path(optimizer, epochs):
    torch.manual_seed(0)
    steps = Steps()
    strategy = strategy_for(config=LIMITED, optimizer=optimizer, train_epochs=epochs, plugins=[steps])
    benchmark = points_stream()
    for k, experience in enumerate(benchmark.train_stream):
        begun = len(steps.sizes)
        strategy.train(experience)
        sizes = steps.sizes[begun:]
        assert sum(sizes) <= 1.02 * path_of(0.015 if k else 0.5, len(experience.dataset))
        assert max(sizes) <= 1.02 * LARGEST_STEP
    assert max(steps.head) <= 1.001 * LARGEST_HEAD_STEP


def test_steps_that_are_somewhat_too_long_are_as_long_as_they_may_be():
    torch.manual_seed(0)
    steps = Steps()
    strategy = strategy_for(config=LIMITED, optimizer=partial(SGD, lr=0.2), train_epochs=30, plugins=[steps])
    experience = points_stream().train_stream[0]
    strategy.train(experience)
    assert 0.8 < sum(steps.sizes) / path_of(0.5, len(experience.dataset)) <= 1.02


def test_steps_that_are_short_enough_stay_as_they_are():
    results = []
    for path in (1e6, None):
        torch.manual_seed(0)
        config = SDLoRAConfig(**SETTINGS, path=path, later_path=path)
        strategy = strategy_for(config=config, optimizer=partial(SGD, lr=1e-4), train_epochs=2)
        for experience in points_stream().train_stream[:2]:
            strategy.train(experience)
        results.append(snapshot(strategy.model))
    assert all(torch.equal(t, results[1][name]) for name, t in results[0].items())


@pytest.mark.parametrize("shared", [True, False])
def test_the_size_of_a_step_is_that_of_the_dense_weights(shared):
    torch.manual_seed(0)
    config = SDLoRAConfig(**SETTINGS, magnitudes="shared" if shared else "per_projection")
    model = adapted_mlp(config)
    limit = PathLimit(model, 1.0, 1)
    before = weights(model)
    limit.before_step()
    learn_something(model, 0.02)
    found = float(limit._change().sqrt() / limit.norm)
    # Directions of rank 2 in 8 and 16 dimensions are orthogonal in part only.
    assert found == pytest.approx(distance(model, before), rel=0.15)
    limit.before_step()
    before = weights(model)
    with torch.no_grad():
        for p in model.trainable_groups()["directions"]:
            p.add_(0.02 * torch.randn_like(p))
    assert float(limit._change().sqrt() / limit.norm) == pytest.approx(distance(model, before), rel=1e-4)


def test_a_step_of_nothing_and_one_that_is_not_finite_leave_the_parameters():
    model = adapted_mlp(LIMITED)
    before = snapshot(model)
    limit = PathLimit(model, 0.1, 10)
    limit.before_step()
    limit.after_step(0)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    limit.before_step()
    with torch.no_grad():
        for p in model.trainable_groups()["directions"]:
            p.fill_(float("inf"))
    limit.after_step(0)
    assert all(torch.isfinite(t).all() for t in model.state_dict().values() if t.is_floating_point())


def test_few_images_go_a_shorter_way_which_the_parts_of_an_experience_share():
    assert path_of(0.5, 500) == path_of(0.5, 50_000) == 0.5
    assert path_of(0.5, 250) == pytest.approx(path_of(0.5, 500) / 4)
    assert 10 * path_of(0.5, 25, parts=10) == pytest.approx(path_of(0.5, 250))  # parts of an online experience
    assert 10 * path_of(0.5, 100, parts=10) == pytest.approx(0.5)


def test_the_profile_rises_and_falls():
    for steps in (1, 2, 3, 40, 1000):
        shares = profile(steps)
        assert len(shares) == steps
        assert 0 < min(shares) <= max(shares) <= 1
    top = shares.index(max(shares))
    assert 0.08 * steps < top < 0.12 * steps
    assert shares[:top] == sorted(shares[:top])
    assert shares[top:] == sorted(shares[top:], reverse=True)


@pytest.mark.parametrize(("own", "expected"), [(2, [6, 2, 2]), (8, [8, 8, 8])])
def test_the_first_experience_has_at_least_its_epochs_and_the_strategy_keeps_its_own(own, expected):
    strategy = strategy_for(config=SDLoRAConfig(rank=2, targets="*", head="linear"), train_epochs=own)
    counted = []
    for experience in points_stream().train_stream[:3]:
        strategy.train(experience)
        counted.append(strategy.clock.train_exp_epochs)
        assert strategy.train_epochs == own
    assert counted == expected


@pytest.mark.parametrize(("batch", "path", "expected"), [(20, 0.5, 6), (40, 50.0, 64), (10, 0.5, 6), (40, None, 6)])
def test_the_first_experience_has_as_many_steps_as_its_path_needs(batch, path, expected):
    """40 images earn the square of 0.08 of their path: one step of the default's, and 64 of a hundred times it."""
    steps = Steps()
    config = SDLoRAConfig(**{**SETTINGS, "path": path, "first_epochs": "auto"})
    strategy = strategy_for(config=config, train_mb_size=batch, train_epochs=1, plugins=[steps])
    strategy.train(points_stream().train_stream[0])
    assert len(steps.sizes) == expected * 40 // batch
    assert steps_of(path_of(50.0, 500)) == steps_of(0.5) == 100


def test_published_presets_have_neither():
    for config in (SDLoRAConfig.paper(), SDLoRAConfig.reference()):
        assert (config.path, config.later_path, config.first_epochs, config.head) == (None, None, 1, "linear")


@pytest.mark.parametrize(
    "settings",
    [{"path": 0.0}, {"later_path": -1.0}, {"path": float("nan")}, {"first_epochs": 0}, {"first_epochs": "all"}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        SDLoRAConfig(**settings)


def test_it_holds_on_a_transformer_of_fused_projections():
    torch.manual_seed(0)
    model = SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=3))
    for k in range(2):
        model.begin_experience({0: [k]})
        learn_something(model, 0.1)
    limit, before = PathLimit(model, 0.01, 1), weights(model)
    limit.before_step()
    learn_something(model, 1.0)
    limit.after_step(0)
    rows = [a.base.weight[p.start : p.stop] for a in model._adapters.values() for p in projections_of(a)]
    norm = torch.stack([torch.linalg.norm(w.double()) for w in rows]).norm()
    moved = torch.stack([torch.linalg.norm(a - b) for a, b in zip(weights(model), before)]).norm()
    assert float(moved / norm) < 1.3 * 0.01


class Spoil(SupervisedPlugin):
    """Makes all gradients of an iteration NaN, though the loss is finite."""

    def __init__(self, iteration):
        super().__init__()
        self.iteration, self.armed = iteration, False

    def after_backward(self, strategy, **kwargs):
        if self.armed and strategy.clock.train_exp_iterations == self.iteration:
            for p in optimized(strategy):
                p.grad.fill_(float("nan"))


@pytest.mark.parametrize("iteration", [1, 3])  # the last is 3, after which there is no loss that would tell
@pytest.mark.parametrize("config", [LIMITED, plain(rank=2, targets="*")], ids=["limited", "published"])
def test_a_step_that_is_not_finite_is_an_error_and_leaves_no_trace(config, iteration):
    spoil = Spoil(iteration)
    strategy, experiences = strategy_for(config=config, plugins=[spoil]), points_stream().train_stream
    strategy.train(experiences[0])
    before, spoil.armed = snapshot(strategy.model), True
    with pytest.raises(FloatingPointError, match="experience 2 of stream 'train', epoch 1, iteration"):
        strategy.train(experiences[1])
    after = snapshot(strategy.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[name]) for name, t in before.items())


def test_an_experience_after_one_that_was_left_has_the_path_and_the_epochs_of_a_later_one():
    leave, steps = Leave(), Steps()
    config = SDLoRAConfig(rank=2, targets="*", head="linear")
    strategy = strategy_for(config=config, optimizer=partial(SGD, lr=1.0), plugins=[leave, steps])
    leave.armed = True
    with pytest.raises(KeyboardInterrupt):
        strategy.train(points_stream().train_stream[0])
    begun = len(steps.sizes)
    strategy.train(points_stream().train_stream[1])
    assert strategy.clock.train_exp_epochs == 1
    assert sum(steps.sizes[begun:]) <= 1.02 * config.later_path


def test_rows_that_rest_do_not_shorten_the_steps_of_the_others():
    """Momentum that is left of an earlier experience moves old rows, which are then put back."""
    results = []
    for left in (0.0, 100.0):
        torch.manual_seed(0)
        strategy, experiences = strategy_for(config=LIMITED, reset_optimizer_state=False), points_stream().train_stream
        strategy.train(experiences[0], shuffle=False)
        strategy.optimizer.state[strategy.model.head.weight]["momentum_buffer"].fill_(left)
        strategy.train(experiences[1], shuffle=False)
        results.append(strategy.model.head.weight.detach())
    assert torch.equal(*results)
