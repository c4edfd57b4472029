"""Low-rank relatives of SD-LoRA, to compare with; their plugins cite and describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from avalanche_sdlora.config import PUBLISHED_TRAINING, RANPAC
from experiments.methods.method import SHARED, Method

if TYPE_CHECKING:
    from avalanche.core import BasePlugin


@dataclass(frozen=True)
class SoRA(Method):
    """SoRA (Ding et al., EMNLP 2023).

    Args:
        threshold: By how much a gate shrinks in each step (as in the authors' script).
    """

    name, label, accepts = "sora", "SoRA", SHARED - {"path", "later_path"}
    threshold: float = 3e-4

    def plugins(self) -> list[BasePlugin[Any]]:
        """The gates."""
        from avalanche_sdlora.methods.relatives import SoRAPlugin

        return [SoRAPlugin(self.threshold)]


@dataclass(frozen=True)
class LoRADropout(Method):
    """LoRA Dropout (Lin et al., 2024).

    Args:
        rate: Probability with which an input or an output of an update is left out of a step.
        ensemble: Number of masked models whose logits are averaged in evaluation; 0 takes the whole one.
    """

    name, label = "lora_dropout", "LoRA Dropout"
    rate: float = 0.5
    ensemble: int = 0

    def plugins(self) -> list[BasePlugin[Any]]:
        """The masks."""
        from avalanche_sdlora.methods.relatives import LoRADropoutPlugin

        return [LoRADropoutPlugin(self.rate, self.ensemble)]


@dataclass(frozen=True)
class RACLoRA(Method):
    """RAC-LoRA (Malinovsky et al., 2024).

    Args:
        links: Number of updates in the chain of a task, at most its rank.
        orthogonal: Whether all tasks have one input side with orthogonal rows in place of random ones.
    """

    name, label = "rac_lora", "RAC-LoRA"
    links: int = 5
    orthogonal: bool = False

    def plugins(self) -> list[BasePlugin[Any]]:
        """The chain."""
        from avalanche_sdlora.methods.relatives import RACLoRAPlugin

        return [RACLoRAPlugin(self.links, self.orthogonal)]


@dataclass(frozen=True)
class PRoLoRA(Method):
    """PRoLoRA (Wang et al., ACL 2024).

    Args:
        chunks: Number of chunks of a factor, all copies of one.
        unshared: Ranks that have no copies.
    """

    name, label = "prolora", "PRoLoRA"
    chunks: int = 2
    unshared: int = 1

    def plugins(self) -> list[BasePlugin[Any]]:
        """The ties."""
        from avalanche_sdlora.methods.relatives import PRoLoRAPlugin

        return [PRoLoRAPlugin(self.chunks, self.unshared)]


@dataclass(frozen=True)
class XGBLoRA(Method):
    """XGBLoRA (Zhang et al., 2024).

    Args:
        share: Share of the projections that each rank-1 booster trains.
    """

    name, label = "xgblora", "XGBLoRA"
    share: float = 0.5

    def plugins(self) -> list[BasePlugin[Any]]:
        """The boosters."""
        from avalanche_sdlora.methods.relatives import XGBLoRAPlugin

        return [XGBLoRAPlugin(self.share)]


@dataclass(frozen=True)
class BeamLoRA(Method):
    """BeamLoRA (Gu et al., ACL 2025).

    Args:
        share: Share of the importance that is kept when weak columns are overwritten (as in the authors' code).
        rounds: Number of intervals of a task between which this is done.
    """

    name, label, accepts = "beamlora", "BeamLoRA", SHARED - {"path", "later_path"}
    share: float = 0.95
    rounds: int = 10

    def plugins(self) -> list[BasePlugin[Any]]:
        """The search over columns."""
        from avalanche_sdlora.methods.relatives import BeamLoRAPlugin

        return [BeamLoRAPlugin(self.share, self.rounds)]


@dataclass(frozen=True)
class PRILoRA(Method):
    """PRILoRA (Benedek and Wolf, 2024); experiments/grids/relatives.toml has its ranks.

    Args:
        share: Share of the elements of the input side that are pruned (as in the paper).
        every: Steps from one pruning to the next (as in the paper).
    """

    name, label = "prilora", "PRILoRA"
    share: float = 0.5
    every: int = 40

    def plugins(self) -> list[BasePlugin[Any]]:
        """The pruning."""
        from avalanche_sdlora.methods.relatives import PRILoRAPlugin

        return [PRILoRAPlugin(self.share, self.every)]


@dataclass(frozen=True)
class LoRAPM(Method):
    """LoRA-P&M (Qiu et al., NeurIPS 2025).

    Args:
        epsilon: Size of the perturbation of the present update (as in the paper).
        images: Images of a task from which the Fisher information is estimated.
    """

    name, label = "lora_pm", "LoRA-P&M"
    epsilon: float = 0.5
    images: int = 256

    def plugins(self) -> list[BasePlugin[Any]]:
        """Perturbation and merging."""
        from avalanche_sdlora.methods.relatives import LoRAPMPlugin

        return [LoRAPMPlugin(self.epsilon, self.images)]


@dataclass(frozen=True)
class LoRASub(Method):
    """LoRA-Sub (Liu and Chang, CVPR 2025).

    Args:
        threshold: Share of the inputs' energy, with earlier updates subtracted, that is kept out of a task's space.
    """

    name, label = "lora_sub", "LoRA-Sub"
    threshold: float = 0.9

    def plugins(self) -> list[BasePlugin[Any]]:
        """The projection."""
        from avalanche_sdlora.methods.relatives import LoRASubPlugin

        return [LoRASubPlugin(self.threshold)]


@dataclass(frozen=True)
class RanPAC(Method):
    """RanPAC with first-session adaptation (McDonnell et al., NeurIPS 2023)."""

    name, label, accepts = "ranpac", "RanPAC", SHARED - {"head", "drift"}
    usual: ClassVar[Mapping[str, Any]] = {**PUBLISHED_TRAINING, "expansion": 10_000, "held_out": None}
    fixed = RANPAC

    def plugins(self) -> list[BasePlugin[Any]]:
        """The plugin that stops after the first task."""
        from avalanche_sdlora.methods.relatives import RanPACPlugin

        return [RanPACPlugin()]


@dataclass(frozen=True)
class DualLoRA(Method):
    """DualLoRA (Chen et al., 2024). Its scale of each sample is in no weight, so that it leaves no adapters file.

    Args:
        threshold: Share of the inputs' energy that is protected (InfLoRA's).
    """

    name, label, frozen = "duallora", "DualLoRA", False
    accepts = SHARED - {"head", "drift", "expansion", "held_out"}
    threshold: float = 0.95

    def plugins(self) -> list[BasePlugin[Any]]:
        """The two updates, and the scale in evaluation."""
        from avalanche_sdlora.methods.relatives import DualLoRAPlugin

        return [DualLoRAPlugin(self.threshold)]


@dataclass(frozen=True)
class Recycle(Method):
    """A new direction starts from the leading ones of the bank, after LoRA Recycle (Hu et al., CVPR 2025)."""

    name, label = "recycle", "LoRA Recycle"

    def plugins(self) -> list[BasePlugin[Any]]:
        """The warm start."""
        from avalanche_sdlora.methods.relatives import RecyclePlugin

        return [RecyclePlugin()]


RELATIVES: tuple[type[Method], ...] = (
    *(SoRA, LoRADropout, RACLoRA, PRoLoRA, XGBLoRA, BeamLoRA),
    *(PRILoRA, LoRAPM, LoRASub, RanPAC, DualLoRA, Recycle),
)
