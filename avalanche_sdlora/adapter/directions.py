"""The directions of all adapters of a model together: what freezes and what opens when a task begins."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from avalanche_sdlora.adapter.functional import merged_weight
from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from avalanche_sdlora.adapter.projection import Magnitudes, Projection
from avalanche_sdlora.config import SDLoRAConfig

logger = logging.getLogger("avalanche_sdlora")


def projections_by_name(adapters: Mapping[str, SDLoRALinear]) -> dict[str, tuple[Projection, int]]:
    """Every projection, named by layer and rows, with its column of the magnitudes."""
    return {
        f"{name}[{projection.start}:{projection.stop}]": (projection, column)
        for name, adapter in adapters.items()
        for projection, column in zip(projections_of(adapter), adapter.columns)
    }


@torch.no_grad()
def next_direction(
    adapters: Mapping[str, SDLoRALinear], magnitudes: Magnitudes, config: SDLoRAConfig, task: int
) -> list[tuple[Tensor, Tensor]]:
    """Freezes and normalises the direction that trains in each projection, if one does, and opens a new one.

    Args:
        adapters: By name.
        magnitudes: Of all of them.
        config: The settings of the method.
        task: Number of the task that begins, from 1.

    Returns:
        ``(old, new)`` for each magnitude that continues under a new tensor.
    """
    jumps = config.boundary == "reset" and len(magnitudes) > 0
    before = _weights(adapters.values()) if jumps else []
    opens = task == 1 or config.directions == "every"
    projections = projections_by_name(adapters).values()
    freezes = any(len(projection.A) for projection, _ in projections)
    if freezes:
        last = magnitudes.values()[-1]
        for projection, column in projections:
            projection.freeze(last[column], config)
    new = len(magnitudes)
    replaced = magnitudes.begin(config, freezes, opens)
    if opens:
        for i, adapter in enumerate(adapters.values()):
            for projection in projections_of(adapter):
                projection.begin(config.schedule.rank(task, i, len(adapters)), new)
    if jumps:
        moved = [torch.linalg.norm(a - b) / torch.linalg.norm(b) for a, b in zip(_weights(adapters.values()), before)]
        logger.info(
            "boundary before task %d: the adapted weights jump by %.2e on average, %.2e at most (relative)",
            task,
            torch.stack(moved).mean(),
            torch.stack(moved).max(),
        )
    return replaced


def _weights(adapters: Iterable[SDLoRALinear]) -> list[Tensor]:
    return [merged_weight(a.base.weight, a.updates()) for a in adapters]
