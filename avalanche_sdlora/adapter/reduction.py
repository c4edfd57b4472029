"""Reductions of the directions after a task: distillation into older ones, truncation, and the bound on the bank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from avalanche_sdlora.adapter.factors import Fit
from avalanche_sdlora.adapter.functional import all_factors, product_norm
from avalanche_sdlora.adapter.projection import Magnitudes, Projection
from avalanche_sdlora.config import SDLoRAConfig


@dataclass(frozen=True)
class Reduction:
    """The reduction of one projection after an experience.

    Attributes:
        projection: The layer's name and the rows of its output that the projection adapts.
        rank_before: Total rank of its directions, the one just learned included.
        rank_after: Total rank of its directions after the reduction.
        error: ``||W_after - W_before||_F / ||W_before - W0||_F`` of the adapted rows; 0 where nothing was done. With
            coefficients folded as the paper prints them it shows how far the function jumped.
        parameters_saved: Elements of the factors that are gone.
        residual: Distance of the new direction, at unit norm, from the best combination of the frozen ones: 0 if
            they explain it wholly, 1 if they share nothing with it. None if there was nothing to fit, or nothing
            to fit with.
        absorbed: Whether the new direction was replaced by that combination.
    """

    projection: str
    rank_before: int
    rank_after: int
    error: float
    parameters_saved: int
    residual: float | None
    absorbed: bool


@torch.no_grad()
def reduce_directions(
    projections: dict[str, tuple[Projection, int]], magnitudes: Magnitudes, config: SDLoRAConfig
) -> list[Reduction]:
    """Prunes, truncates and recompresses after a task, in this order, as ``config`` says.

    Args:
        projections: By name, each with its column of the magnitudes.
        magnitudes: The model's magnitudes. Their rows are dropped or regrouped with the directions.
        config: ``kd_tolerance``, ``kd_fold``, ``energy``, ``rank_budget``.

    Returns:
        One record per projection. Where nothing had to be done, every tensor is left as it was.
    """
    current = [p for p, _ in projections.values() if len(p.A)]
    frozen = len(magnitudes) - bool(current)  # directions in the banks
    before = {name: _sum(p, magnitudes, column) for name, (p, column) in projections.items()}
    fits: dict[str, Fit] = {}
    absorbed = set()
    for name, (projection, column) in projections.items():
        if not len(projection.A):
            continue
        if len(projection.bank_A):
            fits[name] = projection.fit(frozen)
        if config.kd_tolerance is not None and name in fits and fits[name].residual <= config.kd_tolerance:
            learned = float(magnitudes.values()[-1, column]) * float(product_norm(projection.A, projection.B))
            projection.absorb(fits[name].coefficients * (learned if config.kd_fold == "contribution" else 1.0))
            absorbed.add(name)
        elif config.energy is not None:
            projection.truncate(config.energy)
    if current and not any(len(p.A) for p in current):
        magnitudes.forget_last()
    else:
        limits = {name: _limit(projection, config) for name, (projection, _) in projections.items()}
        if any(len(p.bank_A) > limits[name] for name, (p, _) in projections.items()):
            room = config.rank_budget if config.rank_budget is not None else max(limits.values())
            groups = min(frozen, math.ceil(room / config.schedule.rank(1)))
            for name, (projection, column) in projections.items():
                projection.recompress(magnitudes.values()[:, column], limits[name], groups)
            magnitudes.regroup(groups)
    return [
        Reduction(
            name,
            *_ranks_and_loss(before[name], _sum(projection, magnitudes, column)),
            residual=fits[name].residual if name in fits else None,
            absorbed=name in absorbed,
        )
        for name, (projection, column) in projections.items()
    ]


def _limit(projection: Projection, config: SDLoRAConfig) -> int:
    """The largest rank that a projection's bank may have.

    No sum of directions has a larger rank than the layer's smaller side, so that a bank of more columns is recompressed
    without loss. The published boundary forgets the scale of a direction, so that recompression would lose it.
    """
    limits = [len(projection.bank_A)]
    if config.rank_budget is not None:
        limits.append(config.rank_budget - len(projection.A))
    if config.boundary == "continuous":
        limits.append(min(projection.bank_A.shape[1], len(projection.bank_B)))
    return min(limits)


def _ranks_and_loss(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> tuple[int, int, float, int]:
    """Rank before and after, relative error, and elements saved, of two sums ``B A`` given as ``(A, B)``."""
    (A, B), (new_A, new_B) = before, after
    error = 0.0
    if not (torch.equal(A, new_A) and torch.equal(B, new_B)):
        moved = product_norm(torch.cat([A, new_A]), torch.cat([B, -new_B], dim=1))
        error = float(moved / product_norm(A, B).clamp(min=torch.finfo(torch.float64).tiny))
    return len(A), len(new_A), error, (len(A) - len(new_A)) * (A.shape[1] + len(B))


def _sum(projection: Projection, magnitudes: Magnitudes, column: int) -> tuple[Tensor, Tensor]:
    """``A (R, in)`` and ``B (out, R)`` whose product is ``W - W0``, in float64."""
    u = projection.update(magnitudes.values()[:, column])
    A, B = all_factors(u)
    return A.double(), B.double() * u.c.double()
