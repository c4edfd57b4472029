"""How a test makes each strategy of Avalanche, with SD-LoRA's plugin and a small network."""

from __future__ import annotations

from functools import partial
from typing import Any

import avalanche.training as strategies
import avalanche.training.plugins as plugins
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from avalanche_sdlora import SDLoRAModel, SDLoRAPlugin
from tests.common import mlp


def common(config: Any, **kwargs: Any) -> dict[str, Any]:
    """Arguments of a strategy of Avalanche on the small network, with SD-LoRA's plugin."""
    model = kwargs.pop("model", None) or mlp()
    settings = {
        "optimizer": SGD(model.parameters(), lr=0.05, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "plugins": [SDLoRAPlugin(config)],
        "evaluator": None,
        "train_mb_size": 10,
        "eval_mb_size": 50,
        "train_epochs": 3,
    }
    return {"model": model, **settings, **kwargs}


def beside(make: Any, config: Any, **kwargs: Any) -> Any:
    """``Naive`` with SD-LoRA's plugin and another one."""
    return strategies.Naive(**common(config, plugins=[SDLoRAPlugin(config), make()], **kwargs))


def template(kind: Any, config: Any, **kwargs: Any) -> Any:
    """A strategy of Avalanche with SD-LoRA's plugin."""
    return kind(**common(config, **kwargs))


def bare(kind: Any, config: Any) -> Any:
    """An object of a strategy that is never made: it would download a network, or refuses every other."""
    strategy = object.__new__(kind)
    strategy.plugins = [SDLoRAPlugin(config)]
    return strategy


class Generator(nn.Module):
    """Learns the mean of its inputs and gives points around it."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean.expand(x.shape)

    def generate(self, number: int) -> torch.Tensor:
        return self.mean + torch.randn(number, 8)


def generator() -> Any:
    model = Generator()
    optimizer = SGD(model.parameters(), lr=0.01)
    return strategies.VAETraining(
        model=model, optimizer=optimizer, criterion=nn.MSELoss(), train_mb_size=10, evaluator=None
    )


def generative_replay_plugin(config: Any) -> Any:
    replay = plugins.GenerativeReplayPlugin(generator(), replay_size=2)
    return template(strategies.Naive, config, plugins=[SDLoRAPlugin(config), replay])


def generative_replay(config: Any) -> Any:
    return template(strategies.GenerativeReplay, config, generator_strategy=generator(), replay_size=2)


def with_scheduler(config: Any) -> Any:
    strategy = template(strategies.Naive, config)
    strategy.plugins.insert(1, plugins.LRSchedulerPlugin(StepLR(strategy.optimizer, 1, gamma=0.9)))
    return strategy


def with_early_stopping(config: Any) -> Any:
    evaluator = plugins.EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    stop = partial(plugins.EarlyStoppingPlugin, 5, "train_stream", metric_name="Top1_Acc_Stream")
    return beside(stop, config, evaluator=evaluator, eval_every=1, train_epochs=8)


def with_evaluation(config: Any) -> Any:
    evaluator = plugins.EvaluationPlugin(accuracy_metrics(epoch=True, trained_experience=True), loggers=[])
    return template(strategies.Naive, config, evaluator=evaluator, eval_every=1)


def er_aml(config: Any) -> Any:
    model = SDLoRAModel(mlp(), config)
    settings = {"feature_extractor": model.features, "mem_size": 60, "train_mb_size": 5}
    return template(strategies.ER_AML, config, model=model, **settings)


def mer(config: Any) -> Any:
    model = mlp()
    settings = {"mem_size": 40, "n_inner_steps": 1, "beta": 1.0, "gamma": 1.0, "train_epochs": 1}
    optimizer = SGD(model.parameters(), lr=0.02)
    return template(strategies.MER, config, model=model, optimizer=optimizer, **settings)


def online_naive(config: Any) -> Any:
    settings = common(config)
    return strategies.OnlineNaive(train_passes=settings.pop("train_epochs"), **settings)


def masked(config: Any, mask: str = "new") -> Any:
    return template(strategies.Naive, config, criterion=strategies.MaskedCrossEntropy(mask=mask))


def slda(config: Any) -> Any:
    settings = common(config)
    del settings["optimizer"]
    return strategies.StreamingLDA(slda_model=settings.pop("model"), input_size=16, num_classes=6, **settings)


def cwr_star(config: Any) -> Any:
    model = mlp()
    return beside(partial(plugins.CWRStarPlugin, model), config, model=model)
