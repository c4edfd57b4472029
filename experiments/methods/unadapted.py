"""Methods without adapters: the head alone, or the whole network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.arguments import Arguments
from experiments.methods.method import Method

if TYPE_CHECKING:
    from torch import nn

    from avalanche_sdlora import SDLoRAConfig, SDLoRAModel


@dataclass(frozen=True)
class Probe(Method):
    """The head alone, on the frozen backbone's features."""

    name, label, fixed = "probe", "linear probe", {"targets": ()}

    def model(self, backbone: nn.Module, config: SDLoRAConfig) -> SDLoRAModel:
        """A model of which nothing but the head trains."""
        model = super().model(backbone, config)
        model.backbone.requires_grad_(not self.frozen)
        return model


@dataclass(frozen=True)
class Finetune(Probe):
    """Every weight of the backbone, and the head.

    Args:
        learning_rate: Learning rate of the backbone (as in Zhang et al., ICCV 2023, SLCA); the head has the run's.
    """

    name, label, frozen = "finetune", "full fine-tuning", False
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rate > 0:
            raise ValueError(f"finetune.learning_rate={self.learning_rate}: expected a number above 0")

    def rates(self, arguments: Arguments) -> dict[str, float | None]:
        """The backbone's own rate; its weights are in the group that directions are in elsewhere."""
        return {**super().rates(arguments), "directions": self.learning_rate}
