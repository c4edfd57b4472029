"""RAC-LoRA: a chain of updates with one random factor fixed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.penalties import random_subspace
from avalanche_sdlora.methods.relatives.relative import ColumnsPlugin
from avalanche_sdlora.model import SDLoRAModel


class RACLoRAPlugin(ColumnsPlugin):
    """RAC-LoRA (Malinovsky et al., arXiv 2410.08305): ``A`` is random and fixed, ``B`` trains, link after link.

    The paper merges each link of the chain into the weights and draws ``A`` anew. Here the links of a task are the
    columns of its one direction, shared out evenly: a link trains its columns of ``B`` from 0 while those of earlier
    links rest, which is that merge, and the task keeps the rank and the file that every direction has. Half as many
    parameters train as in LoRA, and only ``1 / links`` of these at a time.

    Args:
        links: Number of links in a task; as many as the smallest rank where that is less. The equations of the paper
            could not be read; chosen here.
        orthogonal: One ``A`` with orthogonal rows, the same for all tasks, as CL-LoRA has in its shared blocks, in
            place of random ones. Its rows have the length ``1 / sqrt(3)`` that random ones have on average.
        seed: Draws the orthogonal rows.

    Raises:
        ValueError: ``links`` is below 1.
    """

    def __init__(self, links: int = 5, orthogonal: bool = False, seed: int = 0) -> None:
        super().__init__()
        if type(links) is not int or links < 1:
            raise ValueError(f"links={links!r}: expected a whole number of at least 1")
        self.links = links
        self.orthogonal = orthogonal
        self.seed = seed

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes and ``A``."""
        super().before_training(strategy, **kwargs)
        for p in projections_of(strategy.model):
            p.A.requires_grad_(False)

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Takes the random rows that the direction has begun with, or the orthogonal ones of the layer."""
        if not self.orthogonal:
            return
        for i, p in enumerate(projections_of(strategy.model)):
            rows = random_subspace(p.A.shape[1], len(p.A), 100_003 * self.seed + i)  # (in, r)
            p.A.copy_(rows.T / math.sqrt(3))

    def turns(self, model: SDLoRAModel) -> int:
        """One for each link."""
        return max(1, min(self.links, *(len(p.A) for p in projections_of(model))))

    def active(self, projection: Projection, index: int, turn: int, turns: int) -> Tensor:
        """The columns of the link."""
        column = torch.arange(len(projection.A), device=projection.A.device)
        link = column.tensor_split(turns)[turn]
        return torch.isin(column, link)
