"""O-LoRA as an Avalanche plugin: new directions are kept orthogonal to past ones."""

from __future__ import annotations

from torch import Tensor

from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.lora import PenaltyPlugin
from avalanche_sdlora.methods.penalties import overlap


class OLoRAPlugin(PenaltyPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """O-LoRA (Wang et al., EMNLP Findings 2023, arXiv 2310.14152): new directions orthogonal to past ones.

    The penalty is :func:`avalanche_sdlora.methods.penalties.overlap`. The second term of the authors' code (the norms
    of the new factors) is left out: its weight is 0 in their scripts.

    Args:
        weight: ``lambda_1``; 0.5 in the authors' scripts.
    """

    wants_every = True  # with one for all there is nothing to be orthogonal to

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__(weight)

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """Overlap of the new rows with all past ones."""
        return overlap(projection.A, projection.bank_A)
