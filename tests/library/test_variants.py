"""The method's variants on a stream: reduction after every task, and the ablations."""

import dataclasses

import pytest
import torch
from avalanche.core import SupervisedPlugin

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.ranks import RankSchedule
from tests.common import (
    MLP,
    Watch,
    adapted_mlp,
    bank,
    learn_something,
    mlp,
    needs_bfloat16,
    optimized,
    points_stream,
    repeat_direction,
    strategy_for,
    trainable,
)

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


class Repeat(SupervisedPlugin):
    """Starts the third task's factors from the first task's direction."""

    def before_training_exp(self, strategy, **kwargs):
        if int(strategy.model.experiences) == 3:
            repeat_direction(strategy.model, 0, factor=1.0)


def distilled(experiences, plugins, learning_rate=1e-2):
    """Which projections each task of a stream of points, visited in this order, has had absorbed."""

    def optimizer(groups):
        rates = {"directions": learning_rate}
        return torch.optim.SGD([{**group, "lr": rates.get(group["name"], 1e-2)} for group in groups], momentum=0.9)

    config = dataclasses.replace(MLP, kd_tolerance=0.01)
    strategy = strategy_for(config=config, optimizer=optimizer, plugins=plugins, train_epochs=2)
    stream, absorbed = points_stream().train_stream, []
    for i in experiences:
        strategy.train(stream[i])
        absorbed.append([r.absorbed for r in strategy.model.reductions])
    return absorbed


def test_distillation_fires_on_a_task_that_repeats_an_earlier_one():
    """Started from the first task's direction, and with little reason to leave it."""
    fired = distilled([0, 1, 0], [Repeat()], learning_rate=1e-4)
    assert fired == [[False, False], [False, False], [True, True]]


@pytest.mark.parametrize("plugins", [[], [Repeat()]])
def test_distillation_does_not_fire_on_new_tasks(plugins):
    """Not even where the new task starts from an old direction: it learns its way out of it."""
    assert distilled([0, 1, 2], plugins) == [[False, False]] * 3


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"rank": RankSchedule({1: 4, 2: 2}, depth=(0.5, 1))},
        {"energy": 0.9},
        {"rank_budget": 5, "magnitudes": "shared"},
        {"kd_tolerance": 1.0},
        {"directions": "first"},
        {"directions": "single"},
        {"rescale_past": False, "rank_budget": 5},
    ],
)
def test_the_optimizer_holds_what_trains_at_every_step_and_at_the_end(settings, reset):
    watch = Watch()
    config = dataclasses.replace(MLP, **settings)
    strategy = strategy_for(
        config=config, plugins=[watch], optimizer=torch.optim.Adam, reset_optimizer_state=reset, train_epochs=1
    )
    for experience in points_stream().train_stream:
        strategy.train(experience)
        assert set(optimized(strategy)) == set(trainable(strategy))
    assert watch.iterations == 20
    assert all(torch.isfinite(p).all() for p in trainable(strategy))


@needs_bfloat16
@pytest.mark.parametrize("preset", [SDLoRAConfig, SDLoRAConfig.paper, SDLoRAConfig.reference])
@pytest.mark.parametrize("settings", [{"energy": 0.9}, {"rank_budget": 3}, {"kd_tolerance": 1.0}])
def test_reduction_works_in_bfloat16_and_with_every_preset(preset, settings):
    strategy = strategy_for(config=preset(rank=2, targets="*", expansion=40, **settings), precision="bfloat16")
    strategy.train(points_stream().train_stream)
    assert all(torch.isfinite(t.double()).all() for t in strategy.model.state_dict().values())
    assert all(0 <= r.error < 2 for r in strategy.model.reductions)


def test_with_directions_first_later_tasks_train_only_magnitude_and_head():
    model = SDLoRAModel(mlp(), dataclasses.replace(MLP, directions="first"))
    model.begin_experience({0: [0, 1]})
    learn_something(model)
    before = model(X)
    for k in range(2, 4):
        model.begin_experience({0: [k]})
        assert not model.trainable_groups()["directions"]
        assert model.magnitudes.alpha.shape == (1, 2)
    torch.testing.assert_close(model(X)[:, :2], before, rtol=0, atol=1e-5)


def test_with_directions_single_one_direction_trains_on():
    model = SDLoRAModel(mlp(), dataclasses.replace(MLP, directions="single"))
    model.begin_experience({0: [0, 1]})
    learn_something(model)
    before, factors = model(X), model.trainable_groups()["directions"]
    model.begin_experience({0: [2]})
    assert model.trainable_groups()["directions"] == factors
    assert torch.equal(model(X)[:, :2], before)
    assert not any(len(t) and t.numel() for t in bank(model))


@pytest.mark.parametrize("preset", [SDLoRAConfig, SDLoRAConfig.paper])
def test_without_rescaling_past_magnitudes_stay_and_the_rest_is_as_ever(preset):
    fixed = adapted_mlp(preset(rank=2, targets="*", rescale_past=False), experiences=1)
    free = adapted_mlp(preset(rank=2, targets="*"), experiences=1)
    for model in (fixed, free):
        model.begin_experience({0: [7]})
    torch.testing.assert_close(fixed.magnitudes.values(), free.magnitudes.values())
    assert [len(m.magnitudes.alpha) for m in (fixed, free)] == [1, 2]
    assert torch.equal(fixed.features(X), free.features(X))
    assert len(projections_of(fixed)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energy": 0.0}, "energy=0.0: expected a share above 0"),
        ({"energy": 1.5}, "energy=1.5"),
        ({"rank_budget": 10}, "rank_budget=10: expected an integer above the largest rank of one direction, 10"),
        ({"rank_budget": 12, "rank": RankSchedule.constant(10, depth=(1, 1.5))}, "of one direction, 15"),
        ({"kd_tolerance": -1.0}, "kd_tolerance=-1.0"),
        ({"kd_tolerance": float("nan")}, "kd_tolerance=nan"),
        ({"kd_fold": "delta"}, "kd_fold='delta'"),
        ({"directions": "none"}, "directions='none'"),
        ({"directions": "single", "energy": 0.9}, "directions='single' trains one direction on and on"),
        ({"directions": "first", "rescale_past": False}, "later tasks would train the head only"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SDLoRAConfig(**settings)
