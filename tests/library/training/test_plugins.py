"""The optimizer along the stream, and Avalanche's other plugins beside ours."""

import dataclasses
import functools

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin, LRSchedulerPlugin
from torch.optim import SGD, Adam

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin
from avalanche_sdlora.adapter.linear import projections_of
from tests.common import MLP, Watch, image_stream, mlp, needs_bfloat16, optimized, points_stream, strategy_for, tiny_vit


@pytest.fixture
def evaluator():
    return EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])


# -- the optimizer -----------------------------------------------------------------------------------------------------


def by_role(groups):
    rates = {"directions": 0.1, "magnitudes": 0.01, "head": 0.2}
    return SGD([{**g, "lr": rates[g["name"]]} for g in groups], momentum=0.9)


@pytest.mark.parametrize("own", [True, False], ids=["strategy", "plugin on Naive"])
def test_groups_of_an_optimizer_keep_their_settings(own):
    benchmark = points_stream()
    if own:
        strategy = strategy_for(optimizer=by_role)
    else:
        optimizer = by_role([{"params": [], "name": name} for name in ("directions", "magnitudes", "head")])
        strategy = Naive(model=mlp(), optimizer=optimizer, plugins=[SDLoRAPlugin(MLP)], evaluator=None)
        strategy.train_mb_size = 10
    optimizer = strategy.optimizer
    strategy.train(benchmark.train_stream[:3])
    assert strategy.optimizer is optimizer
    groups = {g["name"]: g for g in optimizer.param_groups}
    assert groups["head"]["lr"] == 0.2
    assert groups["head"]["params"] == [strategy.model.head.weight, strategy.model.head.bias]
    assert groups["magnitudes"]["params"] == [strategy.model.magnitudes.alpha]


def test_optimizers_that_cannot_follow_are_refused():
    a, b = mlp()[0].parameters()
    with pytest.raises(ValueError, match="optimizer: 2 parameter groups"):
        strategy_for(optimizer=SGD([{"params": [a]}, {"params": [b]}], lr=0.1))
    with pytest.raises(ValueError, match="the factory must return a torch optimizer"):
        strategy_for(optimizer=lambda groups: SGD([a], lr=0.1))


def test_optimizer_state_is_fresh_or_survives_with_the_parameters_that_stay():
    stream = points_stream().train_stream
    for reset in (True, False):
        seen = {}

        class AtStart(SupervisedPlugin):
            def before_training_epoch(self, strategy, seen=seen, **kwargs):
                seen.update(strategy.optimizer.state)

        strategy = strategy_for(optimizer=functools.partial(Adam, lr=0.01), reset_optimizer_state=reset)
        strategy.train(stream[0])
        before = strategy.optimizer.state[strategy.model.head.weight]["exp_avg"].clone()
        strategy.plugins.insert(1, AtStart())
        strategy.train(stream[1])
        if reset:
            assert not seen
        else:
            assert len(seen) == 3  # magnitudes and the head's two; the directions are new
            assert before.shape == (2, 16)
            assert all(s["exp_avg"].shape == p.shape for p, s in seen.items())


# -- other plugins -----------------------------------------------------------------------------------------------------


def test_early_stopping_and_periodic_evaluation(evaluator):
    benchmark = points_stream()
    stop = EarlyStoppingPlugin(1, "test_stream", metric_name="Top1_Acc_Stream")
    watch = Watch()
    strategy = strategy_for(plugins=[stop, watch], evaluator=evaluator, train_epochs=30, eval_every=1)
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream[:1]])
    strategy.train(benchmark.train_stream[1], eval_streams=[benchmark.test_stream[:2]])
    assert 0 < watch.iterations < 2 * 30 * 4


def test_early_stopping_decides_the_same_whatever_head_predicts_in_the_end():
    def trained(head):
        torch.manual_seed(0)
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
        stop = EarlyStoppingPlugin(2, "test_stream", metric_name="Top1_Acc_Stream")
        config = dataclasses.replace(MLP, head=head)
        strategy = strategy_for(config=config, plugins=[stop], evaluator=evaluator, train_epochs=5, eval_every=1)
        benchmark = points_stream()
        for i in range(2):
            strategy.train(benchmark.train_stream[i], eval_streams=[benchmark.test_stream[i : i + 1]])
        return strategy.model

    linear, ridge = trained("linear"), trained("ridge").state_dict()
    assert all(p.B.abs().max() > 0 for p in projections_of(linear))
    assert all(torch.equal(t, ridge[name]) for name, t in linear.state_dict().items())


def test_learning_rate_scheduler_keeps_its_grip_on_the_optimizer():
    rates = []

    class Rates(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    strategy = strategy_for(train_epochs=3)
    scheduler = torch.optim.lr_scheduler.StepLR(strategy.optimizer, step_size=1, gamma=0.5)
    strategy.plugins += [LRSchedulerPlugin(scheduler), Rates()]
    strategy.train(points_stream().train_stream[:2])
    assert rates == [0.01, 0.005, 0.0025] * 2


def test_gradient_clipping_through_a_plugin():
    norms = []

    class Clip(SupervisedPlugin):
        def before_update(self, strategy, **kwargs):
            torch.nn.utils.clip_grad_norm_(optimized(strategy), 0.01)
            norms.append(torch.stack([p.grad.norm() for p in optimized(strategy)]).norm())

    strategy_for(plugins=[Clip()]).train(points_stream().train_stream[:2])
    assert max(norms) <= 0.0101


@needs_bfloat16
def test_precision_is_one_argument():
    benchmark = image_stream()
    logits = {}
    for name in (None, "bfloat16"):
        strategy = strategy_for(tiny_vit(), SDLoRAConfig(rank=2, expansion=40), precision=name)
        torch.manual_seed(0)
        strategy.train(benchmark.train_stream)
        logits[name] = strategy.model(benchmark.images)
        assert all(p.dtype == torch.float32 for p in strategy.model.parameters())
    assert logits["bfloat16"].dtype == torch.float32
    assert not torch.equal(logits[None], logits["bfloat16"])
    torch.testing.assert_close(logits[None], logits["bfloat16"], rtol=0.1, atol=0.2)
