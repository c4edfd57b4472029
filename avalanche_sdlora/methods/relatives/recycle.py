"""LoRA Recycle, as far as it applies: a new direction starts from what earlier ones have learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.factors import spectrum
from avalanche_sdlora.adapter.functional import all_factors
from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.relative import RelativePlugin
from avalanche_sdlora.model import SDLoRAModel


class RecyclePlugin(RelativePlugin):
    """A warm start from adapters that exist, after LoRA Recycle (Hu et al., CVPR 2025, arXiv 2412.02220).

    That paper makes one adapter of a pool, by meta-learning on images generated from each, so that few examples
    suffice without training. Of this the reuse alone applies to a stream. The rows of a new ``A`` are the leading right
    singular vectors of the sum of the updates in the bank, and of those in a pool of other models: the inputs that
    learning has used most. Rows have the length ``1 / sqrt(3)`` that fresh ones have on average, ``B`` starts at 0 as
    always, and rows for which the bank and the pool have no direction left start fresh.

    Args:
        pool: Models that have learned other streams on a backbone of these shapes, e.g. what
            :func:`avalanche_sdlora.load_model` makes of an adapters file. Their updates alone are kept.
    """

    def __init__(self, pool: Sequence[SDLoRAModel] = ()) -> None:
        super().__init__()
        self._pool = [_updates(model) for model in pool]

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Puts the leading directions in place of the random rows.

        Raises:
            ValueError: A model of the pool does not have the model's layers.
        """
        own = _updates(strategy.model)
        for i, p in enumerate(projections_of(strategy.model)):
            found = [own[i], *(_fitting(updates, i, p) for updates in self._pool)]
            parts = spectrum(torch.cat([A for A, _ in found]), torch.cat([B for _, B in found], dim=1))
            rank = min(len(p.A), parts.rank())
            p.A[:rank] = (parts.Vh[:rank] / math.sqrt(3)).to(p.A)


@torch.no_grad()
def _updates(model: SDLoRAModel) -> list[tuple[Tensor, Tensor]]:
    """``A (R, in)`` and ``B (out, R)`` of each projection, whose product is its whole update."""
    updates = [u for adapter in adapters_of(model.backbone).values() for u in adapter.updates()]
    return [(A.clone(), B * u.c) for u in updates for A, B in [all_factors(u)]]


def _fitting(updates: list[tuple[Tensor, Tensor]], index: int, p: Projection) -> tuple[Tensor, Tensor]:
    if index >= len(updates) or updates[index][0].shape[1] != p.A.shape[1] or len(updates[index][1]) != len(p.B):
        raise ValueError(f"pool: a model has no projection of the shape of number {index} of the model that learns")
    A, B = updates[index]
    return A.to(p.A.device), B.to(p.A.device)
