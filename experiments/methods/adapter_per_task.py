"""Methods that learn one low-rank direction for each task: SD-LoRA and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.methods.method import Method

if TYPE_CHECKING:
    from avalanche.core import BasePlugin
    from avalanche.evaluation import PluginMetric


@dataclass(frozen=True)
class SDLoRA(Method):
    """SD-LoRA (Wu et al., ICLR 2025), whose settings are those of SDLoRAConfig."""

    name, label, accepts, usual = "sdlora", "SD-LoRA", None, {}

    def metrics(self) -> list[PluginMetric[Any]]:
        """Magnitudes, numbers of parameters and reductions."""
        from avalanche_sdlora.metrics import magnitude_metrics, parameter_metrics, reduction_metrics

        return [*magnitude_metrics(), *parameter_metrics(), *reduction_metrics()]


@dataclass(frozen=True)
class OLoRA(Method):
    """O-LoRA (Wang et al., EMNLP Findings 2023).

    Args:
        weight: Weight of the overlap with past directions (as in the authors' scripts).
    """

    name, label = "olora", "O-LoRA"
    weight: float = 0.5

    def plugins(self) -> list[BasePlugin[Any]]:
        """The penalty on the overlap."""
        from avalanche_sdlora import OLoRAPlugin

        return [OLoRAPlugin(self.weight)]


@dataclass(frozen=True)
class NLoRA(Method):
    """N-LoRA (Yang et al., COLING 2025).

    Args:
        weight: Weight of the sum of a direction's absolute elements.
    """

    name, label = "nlora", "N-LoRA"
    weight: float = 1e-4

    def plugins(self) -> list[BasePlugin[Any]]:
        """The penalty on the elements."""
        from avalanche_sdlora import NLoRAPlugin

        return [NLoRAPlugin(self.weight)]


@dataclass(frozen=True)
class CLoRA(Method):
    """CLoRA (Lu et al., ACL 2025).

    Args:
        weight: Weight of a direction's energy in fixed subspaces (as in the authors' code).
    """

    name, label = "clora", "CLoRA"
    weight: float = 1.0

    def plugins(self) -> list[BasePlugin[Any]]:
        """The penalty on the energy."""
        from avalanche_sdlora import CLoRAPlugin

        return [CLoRAPlugin(self.weight)]


@dataclass(frozen=True)
class InfLoRA(Method):
    """InfLoRA (Liang and Li, CVPR 2024).

    Args:
        threshold: Share of the inputs' energy that is protected (as in the authors' runs on CIFAR-100).
    """

    name, label = "inflora", "InfLoRA"
    threshold: float = 0.95

    def plugins(self) -> list[BasePlugin[Any]]:
        """The plugin that designs a direction's input side before it trains."""
        from avalanche_sdlora import InfLoRAPlugin

        return [InfLoRAPlugin(self.threshold)]
