"""RAC-LoRA: a chain of updates with one random factor fixed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import adapters_of, projections_of
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
        links: Number of links in a task, at most its rank. The equations of the paper could not be read; chosen here.
        orthogonal: One ``A`` with orthogonal rows, the same for all tasks, as CL-LoRA has in its shared blocks, in
            place of random ones. Its rows have the length ``1 / sqrt(3)`` that random ones have on average.
        seed: Draws the orthogonal rows.

    Raises:
        ValueError: ``links`` is below 1, or above the rank when training begins.
    """

    def __init__(self, links: int = 5, orthogonal: bool = False, seed: int = 0) -> None:
        super().__init__()
        if type(links) is not int or links < 1:
            raise ValueError(f"links={links!r}: expected a whole number of at least 1")
        self.links = links
        self.orthogonal = orthogonal
        self.seed = seed

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes and ``A``.

        Raises:
            ValueError: Some direction would have fewer columns than there are links.
        """
        super().before_training(strategy, **kwargs)
        schedule, layers = strategy.model.config.schedule, len(adapters_of(strategy.model.backbone))
        rank = min(schedule.rank(schedule.tasks[-1][0], i, layers) for i in range(layers))
        if rank < self.links:
            raise ValueError(f"links={self.links}: expected at most {rank}, the smallest rank of a direction")
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
        return self.links

    def active(self, projection: Projection, index: int, turn: int) -> Tensor:
        """The columns of the link."""
        link = torch.arange(len(projection.A), device=projection.A.device).tensor_split(self.links)[turn]
        return torch.zeros(len(projection.A), dtype=torch.bool, device=projection.A.device).index_fill(0, link, True)
