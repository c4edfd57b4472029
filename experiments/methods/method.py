"""What every method of the command line has, and how a run makes a strategy of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from avalanche_sdlora.config import PUBLISHED_TRAINING, SDLoRAConfig
from experiments.arguments import Arguments

if TYPE_CHECKING:
    import torch
    from avalanche.core import BasePlugin
    from avalanche.evaluation import PluginMetric
    from torch import nn

    from avalanche_sdlora import SDLoRAModel, SDLoRAStrategy

#: Settings of SD-LoRA that the other methods have too: those of the adapters and of the head.
SHARED = frozenset(
    {"rank", "rank_depth", "targets", "magnitude_init", "head", "drift", "expansion", "held_out"}
    | {"path", "later_path", "first_epochs", "rotations"}
)


@dataclass(frozen=True)
class Method:
    """A method with its own arguments.

    Attributes:
        name: What ``--method`` takes.
        label: Its name in reports.
        accepts: Settings of SD-LoRA that it has; None for all of them, presets included.
        usual: Settings of SD-LoRA that the method has unless it is told otherwise: training and head as published.
        fixed: Settings of SD-LoRA that the method itself decides.
        joint: Whether it learns all experiences at once.
        resumable: Whether everything it keeps can be saved with a checkpoint.
        frozen: Whether an adapters file holds all that it learns: it leaves the backbone as it is, and predicts by
            weights alone.

    Raises:
        ValueError: An argument is negative, infinite or NaN.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    accepts: ClassVar[Collection[str] | None] = SHARED
    usual: ClassVar[Mapping[str, Any]] = PUBLISHED_TRAINING
    fixed: ClassVar[Mapping[str, Any]] = {}
    joint: ClassVar[bool] = False
    resumable: ClassVar[bool] = True
    frozen: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in self.own().items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a number of at least 0")

    def own(self) -> dict[str, Any]:
        """Its own arguments by the names that they have on the command line."""
        return {f"{self.name}.{name}": value for name, value in dataclasses.asdict(self).items()}

    def described(self, config: SDLoRAConfig) -> dict[str, Any]:
        """All its settings, as ``results.json`` has them."""
        return config.to_dict() | self.own()

    def model(self, backbone: nn.Module, config: SDLoRAConfig) -> SDLoRAModel:
        """The model; what does not fit the backbone is refused.

        Raises:
            ValueError: A setting does not fit the backbone.
        """
        from avalanche_sdlora import SDLoRAModel

        return SDLoRAModel(backbone, config)

    def plugins(self) -> list[BasePlugin[Any]]:
        """The plugins of the method, beside SD-LoRA's.

        Raises:
            ValueError: An argument is out of range.
        """
        return []

    def metrics(self) -> list[PluginMetric[Any]]:
        """Metrics for the loggers, beside accuracy and loss."""
        from avalanche_sdlora.metrics import parameter_metrics

        return parameter_metrics()

    def rates(self, arguments: Arguments) -> dict[str, float | None]:
        """Learning rates of parameter groups by their names; the others have the run's."""
        return {"head": arguments.head_learning_rate}

    def strategy(self, model: nn.Module, arguments: Arguments, **settings: Any) -> SDLoRAStrategy:
        """The strategy that trains the model.

        Args:
            model: From :meth:`model`.
            arguments: Resolved.
            **settings: Keyword arguments of Avalanche's ``SupervisedTemplate``.
        """
        from avalanche_sdlora import SDLoRAStrategy
        from avalanche_sdlora.training.patches import PatchDropPlugin

        plugins = self.plugins()
        if arguments.patch_drop or arguments.later_patch_drop:
            plugins.append(PatchDropPlugin(arguments.patch_drop or 0.0, arguments.later_patch_drop))
        return SDLoRAStrategy(
            model=model,
            optimizer=self._optimizer(arguments),
            precision=arguments.precision,
            plugins=plugins,
            **settings,
        )

    def _optimizer(self, arguments: Arguments) -> Callable[..., torch.optim.Optimizer]:
        from torch.optim import SGD, Adam, AdamW

        rates, name = self.rates(arguments), arguments.optimizer or "sgd"

        def make(groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
            groups = [{**group, "lr": rates.get(group["name"]) or arguments.learning_rate} for group in groups]
            return {"adam": Adam, "adamw": AdamW}[name](groups) if name != "sgd" else SGD(groups, momentum=0.9)

        return make
