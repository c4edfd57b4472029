"""What the tests of several processes run: small streams, each learned by every number of processes."""

import dataclasses
import os
import random
import shutil
import signal
import time

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.logging import InteractiveLogger, TensorboardLogger
from avalanche.training import EWC, Cumulative, Naive, Replay
from avalanche.training.plugins import AGEMPlugin, EvaluationPlugin, EWCPlugin, LRSchedulerPlugin, ReplayPlugin
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from avalanche_sdlora import Checkpoint, SDLoRAConfig, SDLoRAPlugin, processes
from avalanche_sdlora.methods import CLoRAPlugin, NLoRAPlugin, OLoRAPlugin
from avalanche_sdlora.methods.inflora import InfLoRAPlugin
from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.methods.lwf import LwFPlugin
from avalanche_sdlora.processes import lifeline
from avalanche_sdlora.training.shared_work import check_shared
from experiments.studies.processes import Traffic, step_bytes
from tests.common import MLP, mlp, plain, points_stream, snapshot, strategy_for
from tests.interrupted import Noise
from tests.streams import STREAMS

SINGLE = dataclasses.replace(MLP, directions="single")


def seeded():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def evaluator(*loggers):
    return EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, epoch_running=True, experience=True, stream=True),
        loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        loggers=loggers,
    )


def learned(strategy, test):
    """Everything that must not depend on the number of processes."""
    model = strategy.model.eval()
    x = torch.stack([x for e in test[:3] for x, *_ in e.dataset])
    labels = torch.tensor([e.task_label if hasattr(e, "task_label") else 0 for e in test[:3] for _ in e.dataset])
    with torch.no_grad():
        predicted = model(x, labels).argmax(1)
    state = {name: t.clone() for name, t in model.state_dict().items() if torch.is_tensor(t)}
    return {"state": state, "predicted": predicted, "metrics": dict(strategy.evaluator.get_all_metrics())}


def learn(
    config=MLP, stream=points_stream, plugins=(), dtype=torch.float64, make=None, experiences=2, workers=0, **settings
):
    """Tasks of 40 points in batches of 15 and 10, and evaluations in batches of 16 and 8."""
    seeded()
    benchmark = stream()
    model = mlp().to(dtype)
    settings = {"train_mb_size": 15, "eval_mb_size": 16, "evaluator": evaluator(), **settings}
    make = make or strategy_for
    strategy = make(model, config=config, plugins=list(plugins), **settings)
    for experience in benchmark.train_stream[:experiences]:
        strategy.train(experience, eval_streams=[], num_workers=workers)
        strategy.eval(benchmark.test_stream[:experiences], num_workers=workers)
    return learned(strategy, benchmark.test_stream[:experiences])


def template(kind, scheduled=False, **own):
    def make(model, config, plugins, **settings):
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
        if scheduled:
            plugins = [LRSchedulerPlugin(StepLR(optimizer, 1, 0.5)), *plugins]
        settings |= {"model": model, "optimizer": optimizer, "criterion": nn.CrossEntropyLoss()}
        return kind(plugins=[SDLoRAPlugin(config), *plugins], **own, **settings)

    return make


HEADS = {
    kind: plain(rank=2, targets="*", head=kind, drift="linear", expansion=30, held_out=None)
    for kind in ("ncm", "lda", "ridge", "random_ridge")
}
CHOSEN = SDLoRAConfig(rank=2, targets="*", expansion=30)
REDUCED = plain(rank=4, targets="*", energy=0.9, rank_budget=6, kd_tolerance=0.5)
WEIGHTED = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10), label_smoothing=0.1)

CASES = {
    "default": lambda folder: learn(experiences=3),
    "chosen": lambda folder: learn(CHOSEN, experiences=3),
    "float32": lambda folder: learn(dtype=torch.float32),
    "no labels": lambda folder: learn(stream=STREAMS["class-incremental"]),
    "tasks": lambda folder: learn(stream=STREAMS["task-incremental, labels restart"]),
    "domains": lambda folder: learn(stream=STREAMS["domain-incremental"]),
    "reduced": lambda folder: learn(REDUCED, experiences=3),
    "paper": lambda folder: learn(SDLoRAConfig.paper(rank=2, targets="*")),
    "tiny batches": lambda folder: learn(experiences=1, train_mb_size=2, eval_mb_size=1),
    "weighted": lambda folder: learn(criterion=WEIGHTED.double()),
    "momentum kept": lambda folder: learn(reset_optimizer_state=False),
    "periodic evaluation": lambda folder: learn(eval_every=1),
    "loader processes": lambda folder: learn(workers=1),
    "plugin on Naive, scheduled": lambda folder: learn(make=template(Naive, scheduled=True)),
    "Cumulative": lambda folder: learn(make=template(Cumulative)),
    "lora": lambda folder: learn(SINGLE, plugins=[LoRAPlugin()]),
    "olora": lambda folder: learn(plugins=[OLoRAPlugin()]),
    "nlora": lambda folder: learn(plugins=[NLoRAPlugin()]),
    "clora": lambda folder: learn(plugins=[CLoRAPlugin()]),
    "inflora": lambda folder: learn(plugins=[InfLoRAPlugin()]),
    "lwf": lambda folder: learn(SINGLE, plugins=[LoRAPlugin(), LwFPlugin()]),
    "replay": lambda folder: learn(SINGLE, plugins=[LoRAPlugin(), ReplayPlugin(20)]),
    "ewc": lambda folder: learn(SINGLE, plugins=[LoRAPlugin(), EWCPlugin(10.0, mode="online", decay_factor=1.0)]),
    "EWC": lambda folder: learn(SINGLE, make=template(EWC, ewc_lambda=10.0)),
    "Replay": lambda folder: learn(make=template(Replay, mem_size=20)),
    **{head: lambda folder, config=config: learn(config) for head, config in HEADS.items()},
}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class Last(SupervisedPlugin):
    """Does something in the last process alone, at one training iteration."""

    def __init__(self, at, what):
        super().__init__()
        self.left, self.what = at, what

    def after_forward(self, strategy, **kwargs):
        self.left -= 1
        if not self.left and processes.rank() == processes.size() - 1:
            self.what(strategy)


def poison(strategy):
    strategy.mb_output = strategy.mb_output * float("nan")


def nudge(strategy):
    with torch.no_grad():
        strategy.model.head.bias += 1e-6


def raise_error(strategy):
    raise ValueError("an image that cannot be read")


def not_finite(folder):
    """A loss that is not finite in one process, in the second experience, which is then trained on again."""
    seeded()
    strategy = strategy_for(plugins=[Last(6, poison)], train_mb_size=15)
    stream = points_stream().train_stream
    strategy.train(stream[0])
    before = snapshot(strategy.model)
    error = error_of(lambda: strategy.train(stream[1]))
    after = snapshot(strategy.model)
    strategy.train(stream[1])
    return {"error": error, "before": before, "after": after, "experiences": int(strategy.model.experiences)}


def differing(folder):
    """A parameter of one process that is another than the others'."""
    seeded()
    strategy = strategy_for(plugins=[Last(3, nudge)], train_mb_size=15)
    return error_of(lambda: strategy.train(points_stream().train_stream[0]))


def another_stream(folder):
    seeded()
    strategy = strategy_for(train_mb_size=15)
    return error_of(lambda: strategy.train(points_stream(shuffle=True, seed=processes.rank()).train_stream[0]))


def refused(folder):
    seeded()
    stream = points_stream().train_stream
    model = mlp()
    scheduler = LRSchedulerPlugin(StepLR(SGD(model.parameters(), 0.1), 1), metric="train_loss")
    elsewhere = strategy_for()
    elsewhere.device = torch.device("cuda", processes.rank() + 1)
    return [
        error_of(lambda: strategy_for(plugins=[AGEMPlugin(5, 5)])),
        error_of(lambda: strategy_for(plugins=[scheduler]).train(stream)),
        error_of(lambda: check_shared(elsewhere)),
    ]


def loggers(folder):
    """What an ordinary script makes in every process before there is a strategy."""
    own = folder / f"logs-{os.environ['WORLD_SIZE']}"
    made = evaluator(TensorboardLogger(str(own)), InteractiveLogger())
    strategy = strategy_for(train_mb_size=15, evaluator=made)
    strategy.train(points_stream().train_stream[0], eval_streams=[])
    strategy.eval(points_stream().test_stream[:1])
    return {"loggers": len(made.loggers), "files": sorted(os.listdir(own)), "metrics": made.get_last_metrics()}


class Notice(SupervisedPlugin):
    """What a process sends in a step, and of how many images it keeps the features."""

    def __init__(self, traffic):
        super().__init__()
        self.traffic, self.bytes, self.kept = traffic, [], []

    def before_training_iteration(self, strategy, **kwargs):
        self.sent = self.traffic.bytes

    def after_training_iteration(self, strategy, **kwargs):
        self.bytes.append(self.traffic.bytes - self.sent)
        self.kept.append(len(strategy.model.closed_form.before))


def cost(folder):
    seeded()
    with Traffic() as traffic:
        notice = Notice(traffic)
        strategy = strategy_for(config=HEADS["ridge"], plugins=[notice], train_mb_size=15)
        for experience in points_stream().train_stream[:2]:
            strategy.train(experience, eval_streams=[])
    held = [p for group in strategy.optimizer.param_groups for p in group["params"]]
    formula = step_bytes(sum(p.numel() for p in held), len(held))
    return {"bytes": notice.bytes[-1], "formula": formula, "kept": notice.kept[-1]}


FAILING = {
    "loggers": loggers,  # first: there is no group of processes yet
    "cost": cost,
    "not finite": not_finite,
    "differing": differing,
    "another stream": another_stream,
    "refused": refused,
}


def cases_of(size):
    """What so many processes run: one and two everything; more of them what goes wrong, and one case of each kind."""
    kinds = ("default", "chosen", "reduced", "tiny batches", "replay", "ridge")
    return FAILING | (CASES if size < 3 else {name: CASES[name] for name in kinds})


class Killed(SupervisedPlugin):
    """Kills one process in its ``left``-th iteration, or stops it."""

    rank, left, by = 0, -1, signal.SIGKILL  # of the class: a checkpoint knows nothing of it

    def after_training_iteration(self, strategy, **kwargs):
        Killed.left -= 1
        if Killed.left == 0 and processes.rank() == Killed.rank:
            os.kill(os.getpid(), Killed.by)


def resumable(folder, rank=0, left=-1, noise=True, by=signal.SIGKILL):
    """Three tasks of two epochs of three iterations, with a head that follows the features."""
    Killed.rank, Killed.left, Killed.by = rank, left, by
    if by == signal.SIGSTOP:
        lifeline.PATIENCE = 5.0
    seeded()
    benchmark = points_stream()
    strategy = strategy_for(
        mlp().double(),
        HEADS["ridge"],
        plugins=[Killed(), *([Noise()] if noise else [])],
        train_mb_size=15,
        train_epochs=2,
        evaluator=evaluator(TensorboardLogger(str(folder / "tensorboard"))),
    )
    for experience in Checkpoint(folder, share=1).resume(strategy, benchmark.train_stream[:3]):
        strategy.train(experience, eval_streams=[])
        strategy.eval(benchmark.test_stream[:3])
    for logger in strategy.evaluator.loggers:
        logger.writer.close()
    return learned(strategy, benchmark.test_stream)


def lose(folder, together):
    """Runs that lose a process in the second epoch of the second task, and what goes on from their checkpoints.

    Returns:
        By run, how each process ended, and the seconds that the whole run took.
    """
    found = {}

    def run(name, size, own, **settings):
        def work(rank):
            torch.save(resumable(own, **settings), folder / f"{name}-{size}-{rank}.pt")

        own.mkdir(exist_ok=True)
        begun = time.monotonic()
        found[name] = {"status": together(size, folder, work, name), "seconds": time.monotonic() - begun}

    run("whole", 2, folder / "whole")
    run("lost rank 1", 2, folder / "killed", rank=1, left=10)
    run("lost rank 0", 2, folder / "killed", rank=0, left=2)
    run("silent rank 1", 2, folder / "killed", rank=1, left=2, by=signal.SIGSTOP)
    run("resumed", 2, folder / "killed")
    run("whole by one", 1, folder / "one", noise=False)
    run("lost rank 1 of three", 3, folder / "other", rank=1, left=10, noise=False)
    shutil.copytree(folder / "other", folder / "another")
    run("resumed by one", 1, folder / "other", noise=False)
    run("resumed by four", 4, folder / "another", noise=False)
    return found
