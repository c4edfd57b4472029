"""An experience that was left before its end, and a model that was put back to an earlier stage."""

import copy
import dataclasses
import logging

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from tests.common import MLP, optimized, points_stream, snapshot, strategy_for, trainable
from tests.interrupted import Leave

HEADS = {
    "linear": MLP,
    "lda": dataclasses.replace(MLP, head="lda"),
    "following": dataclasses.replace(MLP, head="ridge", drift="linear"),
}


def begun(config, leave, before=1):
    """A strategy some experiences in that has left the next one."""
    strategy, stream = strategy_for(config=config, plugins=[leave], train_epochs=2), points_stream().train_stream
    strategy.train(stream[:before])
    leave.armed = True
    torch.manual_seed(0)
    with pytest.raises(leave.error):
        strategy.train(stream[before], shuffle=False)
    return strategy, stream


def counts(strategy):
    head = strategy.model.closed_form
    return [] if head is None else head.statistics.counts.tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("head", HEADS)
def test_an_experience_that_was_left_goes_on(head, before, error, caplog):
    strategy, stream = begun(HEADS[head], Leave(error=error), before)
    with caplog.at_level(logging.WARNING, "avalanche_sdlora"):
        strategy.train(stream[before])
    assert f"experience {before + 1} of stream 'train' was interrupted" in caplog.text
    assert set(optimized(strategy)) == set(trainable(strategy))
    assert len(strategy.model.magnitudes) == before + 1
    assert counts(strategy) == ([] if head == "linear" else [20.0] * (2 * before + 2))
    strategy.train(stream[before])  # complete now: going on with it counts its samples once
    assert counts(strategy) == ([] if head == "linear" else [20.0] * (2 * before + 2))


@pytest.mark.parametrize("head", HEADS)
def test_what_was_left_before_its_first_step_ends_as_if_it_had_not_been(head):
    strategy, stream = begun(HEADS[head], Leave(iteration=0))
    strategy.train(stream[1], shuffle=False)
    straight = strategy_for(config=HEADS[head], train_epochs=2)
    straight.train(stream[0])
    torch.manual_seed(0)
    straight.train(stream[1], shuffle=False)
    expected = snapshot(straight.model)
    assert all(torch.equal(t, expected[name]) for name, t in snapshot(strategy.model).items())


@pytest.mark.parametrize("head", HEADS)
def test_another_experience_may_follow_what_was_left(head, caplog):
    strategy, stream = begun(HEADS[head], Leave())
    with caplog.at_level(logging.WARNING, "avalanche_sdlora"):
        strategy.train(stream[2])
    assert "experience 2 of stream 'train' was interrupted before its end, and another one begins" in caplog.text
    assert len(strategy.model.magnitudes) == 3
    if head != "linear":
        assert strategy.model.closed_form.statistics.labels.tolist() == [0, 1, 4, 5]
        assert counts(strategy) == [20.0] * 4


def test_a_loss_that_is_not_finite_takes_what_was_left_back_to_its_beginning():
    class Nothing(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            strategy.loss = strategy.loss * float("nan")

    strategy, stream = strategy_for(config=HEADS["lda"]), points_stream().train_stream
    strategy.train(stream[0])
    before, leave = snapshot(strategy.model), Leave()
    leave.armed = True
    strategy.plugins.insert(1, leave)
    with pytest.raises(KeyboardInterrupt):
        strategy.train(stream[1])
    strategy.plugins.insert(0, Nothing())
    with pytest.raises(FloatingPointError):
        strategy.train(stream[1])
    after = snapshot(strategy.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[name]) for name, t in before.items())


@pytest.mark.parametrize("how", ["auto", "manual"])
@pytest.mark.parametrize("head", HEADS)
def test_an_experience_is_new_to_a_model_that_was_put_back_before_it(head, how):
    config = dataclasses.replace(HEADS[head], new_task=how)
    strategy, stream = strategy_for(config=config), points_stream().train_stream
    strategy.train(stream[0])
    state = copy.deepcopy(strategy.model.state_dict())
    strategy.train(stream[1])
    strategy.model.load_state_dict(state)
    strategy.train(stream[1])
    assert counts(strategy) == ([] if head == "linear" else [20.0] * 4)
    if how == "auto":
        assert len(strategy.model.magnitudes) == 2
    assert set(optimized(strategy)) == set(trainable(strategy))


def test_a_state_loaded_within_an_epoch_is_what_the_next_step_trains():
    other = strategy_for()
    other.train(points_stream().train_stream[:3])
    state = other.model.state_dict()

    class Load(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            if strategy.clock.train_exp_iterations == 1:
                strategy.model.load_state_dict(state)

        def after_update(self, strategy, **kwargs):
            assert set(optimized(strategy)) == set(trainable(strategy))
            self.moved = not torch.equal(strategy.model.magnitudes.alpha, state["magnitudes.alpha"])

    load = Load()
    strategy = strategy_for(plugins=[load])
    strategy.train(points_stream().train_stream[0])
    assert load.moved


@pytest.mark.parametrize("callback", ["before_forward", "after_training_epoch"])
def test_a_state_loaded_inside_an_experience_must_know_its_classes(callback):
    strategy, experiences = strategy_for(train_epochs=2), points_stream().train_stream
    strategy.train(experiences[0])
    state, load = copy.deepcopy(strategy.model.state_dict()), SupervisedPlugin()
    setattr(load, callback, lambda strategy, **kwargs: strategy.model.load_state_dict(state))
    strategy.plugins.append(load)
    with pytest.raises(ValueError, match=r"classes \[2, 3\] of experience 2 of stream 'train'.*load it between"):
        strategy.train(experiences[1])
    strategy.plugins.remove(load)
    strategy.train(experiences[1])
    assert len(strategy.model.magnitudes) == 2


def test_biases_unfrozen_below_the_adapters_train():
    strategy = strategy_for()
    strategy.train(points_stream().train_stream[0])
    for name, p in strategy.model.backbone.named_parameters():
        if name.endswith("base.bias"):
            nn.init.zeros_(p.requires_grad_(True))
    strategy.train(points_stream().train_stream[1])
    biases = [p for name, p in strategy.model.backbone.named_parameters() if name.endswith("base.bias")]
    assert biases
    assert all(p.abs().sum() > 0 for p in biases)
