"""XGBLoRA: a direction grown by boosting, one column on some layers at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.relative import ColumnsPlugin
from avalanche_sdlora.model import SDLoRAModel


class XGBLoRAPlugin(ColumnsPlugin):
    """XGBLoRA (Zhang et al., arXiv 2410.19694): rank-1 updates as boosters, each on layers chosen at random.

    A booster trains a few steps, is merged, and the next one learns what is left. The boosters of a task are the ``r``
    columns of its direction, so that a direction of rank ``r`` is the sum of ``r`` of them; where a booster has not
    chosen a layer its column stays 0. All boosters have equally many steps. The equations of the paper could not be
    read; the share of layers is chosen here.

    Args:
        share: Share of the projections that a booster trains, above 0 and at most 1; at least one does.
        seed: Draws them.

    Raises:
        ValueError: ``share`` is out of range.
    """

    def __init__(self, share: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share={share!r}: expected a number above 0 and at most 1")
        self.share = share
        self.seed = seed
        self._task = 0
        self._layers = 0

    def turns(self, model: SDLoRAModel) -> int:
        """One for each column."""
        projections = projections_of(model)
        self._task, self._layers = int(model.experiences), len(projections)
        return max(1, *(len(p.A) for p in projections))

    def active(self, projection: Projection, index: int, turn: int, turns: int) -> Tensor:
        """Column number ``turn``, if the booster has chosen the projection and the direction has that many."""
        column = torch.arange(len(projection.A), device=projection.A.device) == turn
        return column if index in self._chosen(turn) else torch.zeros_like(column)

    def _chosen(self, turn: int) -> list[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + 1009 * self._task + turn)
        return torch.randperm(self._layers, generator=generator)[: max(1, round(self.share * self._layers))].tolist()
