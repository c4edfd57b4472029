"""Plugin and strategy on every kind of stream, and what Avalanche's order of calls could break."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from torch.optim import SGD, Adam

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAPlugin, SDLoRAStrategy
from tests.common import (
    MLP,
    Points,
    Watch,
    bank,
    image_stream,
    mlp,
    optimized,
    plain,
    points_stream,
    snapshot,
    strategy_for,
    tiny_vit,
    trainable,
)
from tests.streams import STREAMS


def accuracy(strategy, stream):
    return next(v for k, v in strategy.eval(stream).items() if k.startswith("Top1_Acc_Stream"))


@pytest.fixture
def evaluator():
    return EvaluationPlugin(accuracy_metrics(stream=True), loss_metrics(stream=True), loggers=[])


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("own", [True, False], ids=["strategy", "plugin on Naive"])
def test_every_kind_of_stream_learns_with_exactly_the_trainable_parameters(kind, own, evaluator):
    benchmark, watch, model = STREAMS[kind](), Watch(), mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    settings = {"train_mb_size": 10, "train_epochs": 3, "eval_mb_size": 50, "evaluator": evaluator}
    if own:
        strategy = SDLoRAStrategy(model=model, config=MLP, optimizer=optimizer, plugins=[watch], **settings)
    else:
        strategy = Naive(model=model, optimizer=optimizer, plugins=[SDLoRAPlugin(MLP), watch], **settings)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    strategy.eval(benchmark.test_stream)
    assert watch.iterations > 0
    assert len(strategy.model.magnitudes) == len(benchmark.train_stream)
    chance = 1 / 2 if "task-incremental" in kind else 1 / 10
    assert accuracy(strategy, list(benchmark.test_stream)[-1]) > chance + 0.1
    rows = len(strategy.model.head.weight)
    assert rows == (6 if kind == "plain datasets" else 10)


def test_plugin_on_naive_equals_the_strategy():
    results = []
    for own in (True, False):
        model = mlp()
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
        settings = {"train_mb_size": 10, "train_epochs": 2, "evaluator": None, "optimizer": optimizer, "model": model}
        strategy = SDLoRAStrategy(config=MLP, **settings) if own else Naive(plugins=[SDLoRAPlugin(MLP)], **settings)
        torch.manual_seed(0)
        strategy.train(points_stream().train_stream)
        results.append(snapshot(strategy.model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_equal_seeds_give_equal_results_and_other_seeds_do_not():
    def train(seed):
        strategy = strategy_for()
        torch.manual_seed(seed)
        strategy.train(points_stream().train_stream)
        return strategy.model.head.weight.detach()

    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))


@pytest.mark.parametrize("when", ["before", "between", "after"])
@pytest.mark.parametrize("kind", ["class-incremental", "task-incremental", "domain-incremental"])
def test_evaluation_changes_no_parameter_and_no_optimizer_state(kind, when, evaluator):
    benchmark = STREAMS[kind]()
    strategy = strategy_for(evaluator=evaluator, optimizer=functools.partial(Adam, lr=0.01))
    trained = {"before": 0, "between": 1, "after": len(benchmark.train_stream)}[when]
    for experience in benchmark.train_stream[:trained]:
        strategy.train(experience)
    tensors, state = list(strategy.model.parameters()), snapshot(strategy.model)
    optimizer, held = copy.deepcopy(strategy.optimizer.state_dict()), optimized(strategy)
    strategy.eval(benchmark.test_stream)  # classes not seen yet, too
    assert all(a is b for a, b in zip(tensors, strategy.model.parameters(), strict=True))
    assert all(torch.equal(t, state[name]) for name, t in strategy.model.state_dict().items())
    assert all(a is b for a, b in zip(held, optimized(strategy), strict=True))
    assert str(strategy.optimizer.state_dict()) == str(optimizer)


def test_evaluation_loss_is_over_all_seen_classes_and_finite_for_the_others(evaluator):
    benchmark, strategy = points_stream(), strategy_for(evaluator=evaluator)
    strategy.train(benchmark.train_stream[:2])
    x, y, *_ = next(iter(torch.utils.data.DataLoader(benchmark.test_stream[0].dataset, batch_size=40)))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(strategy.model.eval()(x)[:, :4], y)
    name = "Loss_Stream/eval_phase/test_stream/Task000"
    assert strategy.eval(benchmark.test_stream[:1])[name] == pytest.approx(float(expected), rel=1e-5)
    assert math.isfinite(strategy.eval(benchmark.test_stream)[name])


def test_training_gives_old_head_rows_no_gradient_unless_replay_serves_their_classes():
    class OldRows(SupervisedPlugin):
        gradients: list

        def after_backward(self, strategy, **kwargs):
            self.gradients.append(strategy.model.head.weight.grad[:2].abs().sum())

    for replay in (False, True):
        old = OldRows()
        old.gradients = []
        plugins = [ReplayPlugin(mem_size=20)] if replay else []
        strategy, benchmark = strategy_for(plugins=[*plugins, old]), points_stream()
        strategy.train(benchmark.train_stream[0])
        before = strategy.model.head.weight.detach().clone()
        old.gradients.clear()
        strategy.train(benchmark.train_stream[1])
        assert all((g > 0) == replay for g in old.gradients)
        assert torch.equal(strategy.model.head.weight[:2], before) != replay


def test_frozen_directions_stay_bit_identical_through_later_tasks():
    strategy, stream = strategy_for(), points_stream().train_stream
    strategy.train(stream[:2])
    first, base = bank(strategy.model), strategy.model.backbone[0].base.weight.clone()
    strategy.train(stream[2:])
    assert all(torch.equal(a, b[tuple(map(slice, a.shape))]) for a, b in zip(first, bank(strategy.model)))
    assert torch.equal(base, strategy.model.backbone[0].base.weight)


def test_classes_that_return_learn_on_in_the_same_rows():
    stream, strategy = points_stream().train_stream, strategy_for()
    for experience in (stream[0], stream[1], stream[0]):  # another experience each time: a new direction
        strategy.train(experience)
    assert len(strategy.model.head.weight) == 4
    assert len(strategy.model.magnitudes) == 3


def test_task_labels_can_be_ignored(evaluator):
    benchmark = points_stream(task_labels=True)
    config = plain(rank=2, targets="*", use_task_labels=False)
    aware, blind = (strategy_for(config=c, evaluator=evaluator, train_epochs=3) for c in (MLP, config))
    for strategy in (aware, blind):
        torch.manual_seed(0)
        strategy.train(benchmark.train_stream)
    assert torch.equal(aware.model.head.weight, blind.model.head.weight)
    x = torch.randn(5, 8)
    assert (aware.model(x, torch.full((5,), 2))[:, :4] == -1000).all()
    assert (blind.model(x, torch.full((5,), 2)) > -1000).all()


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("poison", "place"), [("nan", 0), ("inf", 0), ("nan", 1)])
@pytest.mark.parametrize("head", ["linear", "lda"])
def test_a_loss_that_is_not_finite_leaves_the_state_before_the_experience(poison, place, head):
    class Poison(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            clock = strategy.clock
            if (clock.train_exp_counter, clock.train_exp_epochs, clock.train_epoch_iterations) == (1, place, 2):
                strategy.mb_output = strategy.mb_output * float(poison)

    stream, x = points_stream().train_stream, torch.randn(9, 8)
    strategy = strategy_for(config=dataclasses.replace(MLP, head=head), plugins=[Poison()], train_epochs=2)
    strategy.train(stream[0])
    before, logits = snapshot(strategy.model), strategy.model.eval()(x)
    with pytest.raises(FloatingPointError, match=rf"experience 2 .*epoch {place + 1}, iteration 3\."):
        strategy.train(stream[1])
    assert all(torch.equal(t, before[name]) for name, t in strategy.model.state_dict().items())
    assert torch.equal(strategy.model.eval()(x)[:, :2], logits)
    assert set(optimized(strategy)) == set(trainable(strategy))
    strategy.plugins.pop(1)
    strategy.train(stream[1])  # and it can go on
    assert len(strategy.model.magnitudes) == 2


def test_inputs_that_the_backbone_refuses_are_refused_before_anything_changes():
    strategy = strategy_for(tiny_vit(img_size=48), SDLoRAConfig(rank=2))
    before = snapshot(strategy.model)
    with pytest.raises(ValueError, match=r"cannot take inputs of shape \(3, 32, 32\) from experience 1.*32"):
        strategy.train(image_stream().train_stream)
    assert snapshot(strategy.model).keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in strategy.model.state_dict().items())


def test_a_stream_that_lost_classes_is_refused():
    data = as_classification_dataset(Points())
    lossy = class_incremental_benchmark({"train": data}, class_order=[*range(10)], num_experiences=3)
    with pytest.raises(ValueError, match=r"lost the classes \[9\].*num_classes_per_exp"):
        strategy_for().train(lossy.train_stream)
    whole = class_incremental_benchmark({"train": data}, class_order=[*range(10)], num_classes_per_exp=[4, 3, 3])
    strategy_for().train(whole.train_stream)
    strategy_for().train(points_stream(experiences=1).train_stream)


def test_a_plugin_and_a_model_that_disagree_are_refused():
    with pytest.raises(ValueError, match="the strategy's model was adapted with"):
        strategy_for(SDLoRAModel(mlp(), MLP), config=SDLoRAConfig(rank=3, targets="*"))


def test_an_unknown_backbone_is_refused_with_near_matches():
    with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
        SDLoRAStrategy(model="vit_tinny_patch16_224")
