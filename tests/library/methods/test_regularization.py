"""Avalanche's EWC and Replay, and LwF, beside SD-LoRA's plugin on one adapter for all tasks."""

import dataclasses

import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin, ReplayPlugin
from avalanche.training.regularization import LearningWithoutForgetting

from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.methods.lwf import LwFPlugin, distillation_loss
from tests.common import MLP, Points, Watch, points_stream, snapshot, strategy_for

SINGLE = dataclasses.replace(MLP, directions="single")


def plain_stream():
    """Of Avalanche's newer kind, without task labels."""
    data = as_classification_dataset(Points())
    return class_incremental_benchmark({"train": data}, class_order=list(range(10)), num_experiences=5).train_stream


def sequential(*plugins, **kwargs):
    return strategy_for(config=SINGLE, plugins=[LoRAPlugin(), *plugins], **kwargs)


MAKERS = {
    "ewc": lambda: EWCPlugin(10.0, mode="online", decay_factor=1.0),
    "ewc, separate": lambda: EWCPlugin(10.0),
    "replay": lambda: ReplayPlugin(mem_size=20),
    "lwf": LwFPlugin,
}


@pytest.mark.parametrize("stream", [lambda: points_stream().train_stream, plain_stream], ids=["labels", "none"])
@pytest.mark.parametrize("method", MAKERS)
def test_they_run_on_either_kind_of_stream_and_touch_only_what_trains(method, stream):
    watch = Watch()
    strategy = sequential(MAKERS[method](), watch)
    frozen = {name for name, _ in strategy.model.named_parameters() if ".base." in name}
    before = snapshot(strategy.model)
    for experience in stream():
        strategy.train(experience)
    after = snapshot(strategy.model)
    assert watch.iterations >= 20
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert torch.equal(strategy.model.magnitudes.values(), torch.ones(1, 2))


def moved(plugins, stop=2):
    """How far the factors move in the second task, and its first task's logits."""
    strategy = sequential(*plugins, train_epochs=5)
    stream = points_stream().train_stream
    torch.manual_seed(0)
    strategy.train(stream[0])
    x = torch.stack([x for x, *_ in stream[0].dataset])
    before, logits = snapshot(strategy.model.backbone), strategy.model(x).detach()[:, :2]
    strategy.train(stream[1])
    after = snapshot(strategy.model.backbone)
    factors = sum(float((after[name] - before[name]).square().sum()) for name in before if name.endswith((".A", ".B")))
    kept = torch.softmax(logits, 1)
    drift = (torch.softmax(strategy.model(x).detach()[:, :2], 1) - kept).abs().mean()
    return factors, float(drift)


def test_ewc_holds_the_factors_where_they_mattered():
    strong = EWCPlugin(1e3, mode="online", decay_factor=1.0)
    assert moved([strong])[0] < 0.5 * moved([EWCPlugin(0.0, mode="online", decay_factor=1.0)])[0]


def test_ewc_follows_a_head_that_grows():
    ewc = EWCPlugin(1.0, mode="online", decay_factor=1.0)
    strategy = sequential(ewc)
    shapes = []
    for experience in points_stream().train_stream[:3]:
        strategy.train(experience)
        shapes.append(tuple(ewc.importances[len(shapes)]["head.weight"].data.shape))
    assert shapes == [(2, 16), (4, 16), (6, 16)]
    saved, importances = ewc.saved_params[2], ewc.importances[2]
    assert torch.equal(saved["head.weight"].expand((8, 16))[:6], strategy.model.head.weight)
    assert importances["backbone.0.projections.0.B"].data.sum() > 0
    assert not importances["backbone.0.base.weight"].data.any()


def test_lwf_keeps_what_the_last_model_said_of_old_classes():
    assert moved([LwFPlugin(10.0)])[1] < 0.5 * moved([])[1]


def test_the_teacher_is_the_model_of_the_last_experience_and_shares_its_backbone():
    lwf = LwFPlugin()
    strategy = sequential(lwf)
    stream = points_stream().train_stream
    strategy.train(stream[0])
    x = torch.randn(3, 8)
    said = strategy.model(x).detach()
    strategy.train(stream[1])
    assert torch.equal(lwf._teacher(x)[:, :2], said[:, :2])
    assert not torch.equal(strategy.model(x)[:, :2], said[:, :2])
    ours, theirs = (dict(m.named_parameters()) for m in (strategy.model, lwf._teacher.args[0]))
    assert theirs["backbone.0.base.weight"] is ours["backbone.0.base.weight"]
    assert theirs["backbone.0.projections.0.A"] is not ours["backbone.0.projections.0.A"]
    assert lwf.classes == [0, 1, 2, 3]


def test_the_distillation_is_avalanches():
    logits, taught = torch.randn(5, 4), torch.randn(5, 4)
    expected = LearningWithoutForgetting(temperature=3.0)._distillation_loss(logits, taught, range(4))
    torch.testing.assert_close(distillation_loss(logits, taught, 3.0), expected)
    assert distillation_loss(taught, taught, 3.0).abs() < 1e-6


def test_the_head_learns_the_tasks_against_each_other_only_with_replay():
    """A step without old samples gives old rows no gradient; one with them does."""

    class OldRows(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.moved = False

        def after_backward(self, strategy, **kwargs):
            if strategy.clock.train_exp_counter:
                self.moved |= bool(strategy.model.head.weight.grad[:2].any())

    seen = {}
    for method in (None, "replay", "lwf"):
        old = OldRows()
        strategy = sequential(*([MAKERS[method]()] if method else []), old)
        strategy.train(points_stream().train_stream[:2])
        seen[method] = old.moved
    assert seen == {None: False, "replay": True, "lwf": True}


def test_lwf_refuses_task_labels_that_select_classes():
    benchmark = points_stream(task_labels=True)
    with pytest.raises(ValueError, match=r"use_task_labels=False"):
        sequential(LwFPlugin()).train(benchmark.train_stream[1])
    for settings, message in (({"temperature": 0}, "temperature=0"), ({"alpha": -1.0}, "alpha=-1.0")):
        with pytest.raises(ValueError, match=message):
            LwFPlugin(**settings)
