"""CLoRA as an Avalanche plugin: updates are kept out of fixed subspaces."""

from __future__ import annotations

from torch import Tensor

from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.lora import PenaltyPlugin
from avalanche_sdlora.methods.penalties import random_subspace, subspace_energy


class CLoRAPlugin(PenaltyPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """CLoRA (Lu et al., ACL 2025, arXiv 2410.16801): updates that keep out of fixed subspaces.

    The penalty is :func:`avalanche_sdlora.methods.penalties.subspace_energy`. The subspaces are random, drawn once for
    the whole stream, as in the authors' code; the paper gives their dimension, a half here, as a setting to be chosen.

    Args:
        weight: ``lambda``; 1 in the authors' code.
        share: Dimension of the subspaces as a share of the layer's sizes, above 0 and below 1.
        seed: Draws the subspaces.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(self, weight: float = 1.0, share: float = 0.5, seed: int = 0) -> None:
        super().__init__(weight)
        if not 0 < share < 1:
            raise ValueError(f"share={share!r}: expected a number above 0 and below 1")
        self.share = share
        self.seed = seed
        self._subspaces: dict[int, Tensor] = {}

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """Energy of the factors in the subspaces."""
        A, B = projection.A, projection.B
        return subspace_energy(A, B, self._subspace(2 * index, A.T), self._subspace(2 * index + 1, B))

    def _subspace(self, number: int, factor: Tensor) -> Tensor:
        if number not in self._subspaces:
            dimensions = max(1, round(self.share * len(factor)))
            self._subspaces[number] = random_subspace(len(factor), dimensions, 100_003 * self.seed + number).to(factor)
        return self._subspaces[number]
