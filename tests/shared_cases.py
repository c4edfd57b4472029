"""What the tests of several processes run: small streams, each learned by every number of processes."""

import dataclasses
import random

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.training import EWC, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin
from torch import nn
from torch.optim import SGD

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin
from avalanche_sdlora.methods import CLoRAPlugin, NLoRAPlugin, OLoRAPlugin
from avalanche_sdlora.methods.inflora import InfLoRAPlugin
from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.methods.lwf import LwFPlugin
from tests.common import MLP, mlp, points_stream, strategy_for
from tests.streams import STREAMS

SINGLE = dataclasses.replace(MLP, directions="single")


def seeded():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def evaluator():
    return EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, epoch_running=True, experience=True, stream=True),
        loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
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


def learn(config=MLP, stream=points_stream, plugins=(), dtype=torch.float64, make=None, experiences=3, **settings):
    """Three tasks of 40 points in batches of 15 and 10, and evaluations in batches of 16 and 8."""
    seeded()
    benchmark = stream()
    model = mlp().to(dtype)
    settings = {"train_mb_size": 15, "eval_mb_size": 16, "evaluator": evaluator(), **settings}
    make = make or strategy_for
    strategy = make(model, config=config, plugins=list(plugins), **settings)
    for experience in benchmark.train_stream[:experiences]:
        strategy.train(experience, eval_streams=[])
        strategy.eval(benchmark.test_stream[:experiences])
    return learned(strategy, benchmark.test_stream[:experiences])


def template(kind, **own):
    def make(model, config, plugins, **settings):
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
        settings |= {"model": model, "optimizer": optimizer, "criterion": nn.CrossEntropyLoss()}
        return kind(plugins=[SDLoRAPlugin(config), *plugins], **own, **settings)

    return make


HEADS = {
    kind: SDLoRAConfig(rank=2, targets="*", head=kind, drift="linear", expansion=30)
    for kind in ("ncm", "lda", "ridge", "random_ridge")
}
REDUCED = SDLoRAConfig(rank=4, targets="*", energy=0.9, rank_budget=6, kd_tolerance=0.5)
WEIGHTED = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10), label_smoothing=0.1)

CASES = {
    "default": lambda folder: learn(),
    "float32": lambda folder: learn(dtype=torch.float32),
    "no labels": lambda folder: learn(stream=STREAMS["class-incremental"]),
    "tasks": lambda folder: learn(stream=STREAMS["task-incremental, labels restart"]),
    "domains": lambda folder: learn(stream=STREAMS["domain-incremental"]),
    "reduced": lambda folder: learn(REDUCED),
    "paper": lambda folder: learn(SDLoRAConfig.paper(rank=2, targets="*")),
    "tiny batches": lambda folder: learn(experiences=1, train_mb_size=2, eval_mb_size=1),
    "weighted": lambda folder: learn(criterion=WEIGHTED.double()),
    "momentum kept": lambda folder: learn(reset_optimizer_state=False),
    "periodic evaluation": lambda folder: learn(eval_every=1),
    "plugin on Naive": lambda folder: learn(make=template(Naive)),
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
