"""The methods that ``--method`` can name, each a model and a strategy made from the arguments of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import concat_datasets
from avalanche.core import BasePlugin
from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import EWCPlugin, ReplayPlugin
from torch import nn

from avalanche_sdlora import FirstSessionPlugin, SDLoRAConfig, SDLoRAModel, SDLoRAStrategy
from avalanche_sdlora.methods import CLoRAPlugin, LoRAPlugin, NLoRAPlugin, OLoRAPlugin
from avalanche_sdlora.methods.inflora import InfLoRAPlugin
from avalanche_sdlora.methods.lwf import LwFPlugin
from avalanche_sdlora.training.metrics import magnitude_metrics, parameter_metrics, reduction_metrics

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
        own: Arguments that no other method has, with their defaults.
        joint: Learns all experiences at once.
        resumable: Everything it keeps can be saved with a checkpoint.
        frozen: Leaves the backbone as it is, so that what it learns makes an adapters file.
    """

    label: str
    model: Callable[[nn.Module, Arguments], nn.Module]
    strategy: Callable[..., Any]
    metrics: Callable[[], list[PluginMetric[Any]]] = list
    describe: Callable[[Arguments], dict[str, Any]] = lambda arguments: {}
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    joint: bool = False
    resumable: bool = True
    frozen: bool = True


def joined(stream: Sequence[Any]) -> Sequence[Any]:
    """All experiences of a stream as the only one of another."""
    return benchmark_from_datasets(train=[concat_datasets([e.dataset for e in stream])]).train_stream


def optimizer_of(arguments: Arguments) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer of a run, made from groups of parameters by name; some have a learning rate of their own."""
    rates = {
        "directions": arguments.backbone_learning_rate,  # where a backbone that trains is, too
        "head": arguments.head_learning_rate,
    }

    def make(groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        groups = [{**group, "lr": rates.get(group["name"]) or arguments.learning_rate} for group in groups]
        return OPTIMIZERS[arguments.optimizer or "sgd"](groups)

    return make


def first_session_of(arguments: Arguments) -> list[BasePlugin[Any]]:
    """What makes the first experience another than the rest, if anything does; it is all that joint training has."""
    epochs, rate = arguments.first_epochs, arguments.later_learning_rate
    if METHODS[arguments.method].joint or (epochs is None and rate is None):
        return []
    return [FirstSessionPlugin(epochs, rate)]


def autocast_of(arguments: Arguments) -> torch.dtype | None:
    """The precision of the forward pass, None for float32."""
    return torch.bfloat16 if arguments.bfloat16 else None


def own_arguments(arguments: Arguments) -> dict[str, Any]:
    """What only the method of ``arguments`` has, with its defaults where nothing was given.

    Raises:
        ValueError: An argument is of no use to the method, or out of range.
    """
    method = METHODS[arguments.method]
    for name in sorted({name for other in METHODS.values() for name in other.own} - set(method.own)):
        if getattr(arguments, name) is not None:
            users = ", ".join(key for key, other in METHODS.items() if name in other.own)
            raise ValueError(
                f"{name}={getattr(arguments, name)!r}: not for --method {arguments.method}, but for {users}"
            )
    given = {name: getattr(arguments, name) for name in method.own}
    values = {name: method.own[name] if value is None else value for name, value in given.items()}
    for name in values.keys() - set(_OF_SDLORA):
        if not 0 <= values[name] < math.inf:
            raise ValueError(f"{name}={values[name]!r}: expected a number of at least 0")
    return values


# -- SD-LoRA -----------------------------------------------------------------------------------------------------------

# Settings that have no meaning, or a fixed one, for the others.
_OF_SDLORA = (
    *("norm", "boundary", "magnitudes", "reset_magnitudes", "rescale_past", "directions"),
    *("energy", "rank_budget", "kd_tolerance", "kd_fold"),
)


def _sdlora_model(backbone: nn.Module, arguments: Arguments) -> SDLoRAModel:
    return SDLoRAModel(backbone, arguments.sdlora_config())


def _sdlora_strategy(
    model: nn.Module, arguments: Arguments, plugins: Iterable[BasePlugin[Any]] = (), **settings: Any
) -> SDLoRAStrategy:
    return SDLoRAStrategy(
        model=model,
        optimizer=optimizer_of(arguments),
        autocast=autocast_of(arguments),
        plugins=[*first_session_of(arguments), *plugins],
        **settings,
    )


def _sdlora_config(arguments: Arguments) -> dict[str, Any]:
    return arguments.sdlora_config().to_dict()


def _sdlora_metrics() -> list[PluginMetric[Any]]:
    return [*magnitude_metrics(), *parameter_metrics(), *reduction_metrics()]


# -- everything else, on the same adapter, head, loss and loop ---------------------------------------------------------


def _plain_config(arguments: Arguments, **fixed: Any) -> SDLoRAConfig:
    """The settings that are no part of SD-LoRA's own idea, whatever the recipe's preset is."""
    return dataclasses.replace(dataclasses.replace(arguments, preset="default").sdlora_config(), **fixed)


def _lora(
    label: str,
    plugins: Callable[..., list[BasePlugin[Any]]],
    own: Mapping[str, Any] | None = None,
    *,
    directions: Literal["every", "single"] = "every",
    joint: bool = False,
    resumable: bool = True,
) -> Method:
    """A method that adds up plain low-rank directions; ``plugins`` makes what it is from the values of its ``own``."""
    own = own or {}

    def config(arguments: Arguments) -> SDLoRAConfig:
        return _plain_config(arguments, directions=directions)

    def made(arguments: Arguments) -> list[BasePlugin[Any]]:
        return plugins(*(getattr(arguments, name) for name in own))

    def describe(arguments: Arguments) -> dict[str, Any]:
        made(arguments)  # refuses what is out of range
        return config(arguments).to_dict() | {name: getattr(arguments, name) for name in own}

    def model(backbone: nn.Module, arguments: Arguments) -> SDLoRAModel:
        return SDLoRAModel(backbone, config(arguments))

    def strategy(model: nn.Module, arguments: Arguments, **settings: Any) -> SDLoRAStrategy:
        return _sdlora_strategy(model, arguments, plugins=made(arguments), **settings)

    return Method(label, model, strategy, parameter_metrics, describe, own, joint, resumable)


def _unadapted(label: str, own: Mapping[str, Any] | None = None, *, unfrozen: bool = False) -> Method:
    """A method without adapters: the head alone, or the whole network."""
    own = own or {}

    def model(backbone: nn.Module, arguments: Arguments) -> SDLoRAModel:
        model = SDLoRAModel(backbone, _plain_config(arguments, targets=()))
        model.backbone.requires_grad_(unfrozen)
        return model

    def describe(arguments: Arguments) -> dict[str, Any]:
        return _plain_config(arguments, targets=()).to_dict() | {name: getattr(arguments, name) for name in own}

    return Method(label, model, _sdlora_strategy, parameter_metrics, describe, own, frozen=not unfrozen)


def _plain() -> list[BasePlugin[Any]]:
    return [LoRAPlugin()]


def _ewc(weight: float) -> list[BasePlugin[Any]]:
    # Avalanche's "separate" mode keeps two copies of the whole network for every experience.
    return [LoRAPlugin(), EWCPlugin(weight, mode="online", decay_factor=1.0)]


# The default weights are those of experiments/grids/methods.toml, which says where they are from.
METHODS = {
    "sdlora": Method(
        "SD-LoRA", _sdlora_model, _sdlora_strategy, _sdlora_metrics, _sdlora_config, dict.fromkeys(_OF_SDLORA)
    ),
    "probe": _unadapted("linear probe"),
    # The rate is that of Zhang et al., ICCV 2023 (SLCA).
    "finetune": _unadapted("full fine-tuning", {"backbone_learning_rate": 1e-4}, unfrozen=True),
    "lora": _lora("sequential LoRA", _plain, directions="single"),
    "joint": _lora("joint LoRA", _plain, directions="single", joint=True),
    "ewc": _lora("EWC on LoRA", _ewc, {"ewc_lambda": 1.0}, directions="single", resumable=False),
    "lwf": _lora("LwF on LoRA", lambda w: [LoRAPlugin(), LwFPlugin(w)], {"lwf_alpha": 0.2}, directions="single"),
    "replay": _lora(
        "replay on LoRA",
        lambda n: [LoRAPlugin(), ReplayPlugin(n)],
        {"replay_memory": 200},
        directions="single",
        resumable=False,
    ),
    "olora": _lora("O-LoRA", lambda w: [OLoRAPlugin(w)], {"olora_lambda": 0.5}),
    "nlora": _lora("N-LoRA", lambda w: [NLoRAPlugin(w)], {"nlora_lambda": 1e-4}),
    "clora": _lora("CLoRA", lambda w: [CLoRAPlugin(w)], {"clora_lambda": 1.0}),
    "inflora": _lora("InfLoRA", lambda t: [InfLoRAPlugin(t)], {"inflora_threshold": 0.95}),
}
"""Every method by the name that ``--method`` takes."""
