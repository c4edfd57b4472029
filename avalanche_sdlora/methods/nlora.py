"""N-LoRA as an Avalanche plugin: updates are kept sparse, so that they seldom collide."""

from __future__ import annotations

from torch import Tensor

from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.lora import PenaltyPlugin
from avalanche_sdlora.methods.penalties import magnitude_of_update


class NLoRAPlugin(PenaltyPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """N-LoRA (Yang et al., COLING 2025, arXiv 2410.10179): sparse updates, which seldom collide with earlier ones.

    See :func:`avalanche_sdlora.methods.penalties.magnitude_of_update` for the penalty.

    Args:
        weight: ``lambda``. The sum grows with the layers' sizes, and so must it shrink.
    """

    def __init__(self, weight: float = 1e-4) -> None:
        super().__init__(weight)

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """Sum of the absolute elements of the new update."""
        return magnitude_of_update(projection.A, projection.B)
