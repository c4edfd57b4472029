"""The methods that ``--method`` can name, each a model and a strategy made from the arguments of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from avalanche.evaluation import PluginMetric
from torch import nn

from avalanche_sdlora import SDLoRAModel, SDLoRAStrategy
from avalanche_sdlora.logging_metrics import magnitude_metrics, parameter_metrics, reduction_metrics

if TYPE_CHECKING:
    from experiments.arguments import Arguments

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
}


@dataclasses.dataclass(frozen=True)
class Method:
    """How a run makes one method.

    Attributes:
        label: Its name in reports.
        model: From the backbone and the arguments, the model; refuses what cannot be used before anything is written.
        strategy: From that model, the arguments and the keyword arguments of Avalanche's ``SupervisedTemplate``, the
            strategy that trains it.
        metrics: Plugin metrics of its own.
        describe: From the arguments, the method's settings for ``results.json``.
    """

    label: str
    model: Callable[[nn.Module, Arguments], nn.Module]
    strategy: Callable[..., Any]
    metrics: Callable[[], list[PluginMetric[Any]]] = list
    describe: Callable[[Arguments], dict[str, Any]] = lambda arguments: {}


def optimizer_of(arguments: Arguments) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer of a run, without its parameters."""
    return partial(OPTIMIZERS[arguments.optimizer or "sgd"], lr=arguments.learning_rate)


def autocast_of(arguments: Arguments) -> torch.dtype | None:
    """The precision of the forward pass, None for float32."""
    return torch.bfloat16 if arguments.bfloat16 else None


def _sdlora_model(backbone: nn.Module, arguments: Arguments) -> SDLoRAModel:
    return SDLoRAModel(backbone, arguments.sdlora_config())


def _sdlora_strategy(model: SDLoRAModel, arguments: Arguments, **settings: Any) -> SDLoRAStrategy:
    return SDLoRAStrategy(model=model, optimizer=optimizer_of(arguments), autocast=autocast_of(arguments), **settings)


def _sdlora_config(arguments: Arguments) -> dict[str, Any]:
    return arguments.sdlora_config().to_dict()


def _sdlora_metrics() -> list[PluginMetric[Any]]:
    return [*magnitude_metrics(), *parameter_metrics(), *reduction_metrics()]


METHODS = {
    "sdlora": Method("SD-LoRA", _sdlora_model, _sdlora_strategy, _sdlora_metrics, _sdlora_config),
}
"""Every method by the name that ``--method`` takes."""
