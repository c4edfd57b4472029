"""Methods that train one low-rank adapter on and on, for all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.methods.method import Method

if TYPE_CHECKING:
    from avalanche.core import BasePlugin


@dataclass(frozen=True)
class LoRA(Method):
    """Sequential LoRA (Hu et al., ICLR 2022): one adapter that goes on training with every task."""

    name, label, fixed = "lora", "sequential LoRA", {"directions": "single"}

    def plugins(self) -> list[BasePlugin[Any]]:
        """The plugin that takes SD-LoRA's normalisation away."""
        from avalanche_sdlora import LoRAPlugin

        return [LoRAPlugin()]


@dataclass(frozen=True)
class Joint(LoRA):
    """LoRA on all tasks at once, the upper bound."""

    name, label, joint = "joint", "joint LoRA", True


@dataclass(frozen=True)
class EWC(LoRA):
    """Elastic weight consolidation (Kirkpatrick et al., PNAS 2017).

    Args:
        weight: Weight of the penalty; experiments/grids/methods.toml says why it is so small.
    """

    name, label, resumable = "ewc", "EWC on LoRA", False
    weight: float = 1.0

    def plugins(self) -> list[BasePlugin[Any]]:
        """Avalanche's plugin; its "separate" mode would keep two copies of the whole network for every experience."""
        from avalanche.training.plugins import EWCPlugin

        return [*super().plugins(), EWCPlugin(self.weight, mode="online", decay_factor=1.0)]


@dataclass(frozen=True)
class LwF(LoRA):
    """Learning without forgetting (Li and Hoiem, TPAMI 2018).

    Args:
        alpha: Weight of the distillation; the authors' 1 fails after few epochs, see experiments/grids/methods.toml.
    """

    name, label = "lwf", "LwF on LoRA"
    alpha: float = 0.2

    def plugins(self) -> list[BasePlugin[Any]]:
        """Distillation from the model before the experience."""
        from avalanche_sdlora import LwFPlugin

        return [*super().plugins(), LwFPlugin(self.alpha)]


@dataclass(frozen=True)
class Replay(LoRA):
    """Replay of images that were kept.

    Args:
        memory: Number of images that are kept.
    """

    name, label, resumable = "replay", "replay on LoRA", False
    memory: int = 200

    def plugins(self) -> list[BasePlugin[Any]]:
        """Avalanche's plugin."""
        from avalanche.training.plugins import ReplayPlugin

        return [*super().plugins(), ReplayPlugin(self.memory)]
