"""A script with a checkpoint, the end of its process, and what a continued run must have in common with a whole one."""

import random
from functools import partial

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from avalanche_sdlora import Checkpoint, SDLoRAPlugin
from avalanche_sdlora.metrics import magnitude_metrics
from tests.common import MLP, mlp, points_stream, snapshot, strategy_for


class KilledError(Exception):
    """Stands in for the end of the process."""


class Kill(SupervisedPlugin):
    """Raises once ``left`` iterations of training and evaluation have passed in this process."""

    left = -1  # of the class: a checkpoint knows nothing of it

    def after_training_iteration(self, strategy, **kwargs):
        Kill.left -= 1
        if Kill.left == 0:
            raise KilledError

    after_eval_iteration = after_training_iteration


class Leave(SupervisedPlugin):
    """Leaves an experience by an error of its own, which no other plugin sees."""

    def __init__(self, iteration=2, error=KeyboardInterrupt):
        super().__init__()
        self.iteration, self.error, self.armed = iteration, error, False

    def before_forward(self, strategy, **kwargs):
        if self.armed and strategy.clock.train_exp_iterations == self.iteration:
            self.armed = False
            raise self.error


class Remember(SupervisedPlugin):
    """Hands the last strategy out."""

    def before_training(self, strategy, **kwargs):
        Remember.strategy = strategy


class Noise(SupervisedPlugin):
    """Draws from every global generator."""

    def before_forward(self, strategy, **kwargs):
        noise = torch.randn(8) + random.random() + np.random.rand()  # noqa: NPY002
        strategy.mbatch[0] = strategy.mbatch[0] + 0.1 * noise


def strategy_in(folder, *, scheduler=False, naive=False, plugins=(), config=MLP, **kwargs):
    model = mlp()
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        loss_metrics(epoch_running=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        magnitude_metrics(),
        loggers=[TensorboardLogger(str(folder / "tensorboard"))],
    )
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9) if scheduler else partial(Adam, lr=0.01)
    plugins = [Kill(), Noise(), *([LRSchedulerPlugin(StepLR(optimizer, 1, 0.5))] if scheduler else []), *plugins]
    settings = {"train_epochs": 2, "evaluator": evaluator, "plugins": plugins, **kwargs}
    if naive:
        settings["plugins"] = [SDLoRAPlugin(config), *plugins]
        return Naive(model=model, optimizer=SGD(model.parameters(), lr=0.05), train_mb_size=10, **settings)
    return strategy_for(model, config, optimizer=optimizer, **settings)


def script(folder, kill=-1, workers=0, about=None, length=3, **kwargs):
    """What a user writes."""
    Kill.left = kill
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    benchmark = points_stream()
    strategy = strategy_in(folder, **kwargs)
    checkpoint = Checkpoint(folder, about, share=1)
    for experience in checkpoint.resume(strategy, benchmark.train_stream[:length]):
        strategy.train(experience, eval_streams=[], num_workers=workers)
        strategy.eval(benchmark.test_stream[:3], num_workers=workers)
        checkpoint.notes.setdefault("reports", []).append(strategy.model.parameter_report())
    strategy.evaluator.loggers[0].writer.close()
    return strategy, checkpoint


def events(folder):
    # Files made in one second by one process, as only here, are not read in the order in which they were made.
    found = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=False).Reload()
    return {tag: sorted((e.step, e.value) for e in found.Scalars(tag)) for tag in found.Tags()["scalars"]}


def assert_same(one, other, folders):
    (a, notes_a), (b, notes_b) = ((strategy, checkpoint.notes) for strategy, checkpoint in (one, other))
    before, after = snapshot(a.model), snapshot(b.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    assert str(a.optimizer.state_dict()) == str(b.optimizer.state_dict())
    assert a.evaluator.get_all_metrics() == b.evaluator.get_all_metrics()
    assert vars(a.clock) == vars(b.clock)
    assert notes_a == notes_b
    assert events(folders[0]) == events(folders[1])
    x = torch.randn(3, 8)
    assert torch.equal(a.model.eval()(x), b.model.eval()(x))
