"""SoRA: a gate for each column of a direction, made sparse by a proximal step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.gated import GatedPlugin


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    """``sign(x) max(|x| - threshold, 0)``, the proximal map of ``threshold |x|_1`` (SoRA, eq. 6)."""
    return x.sign() * (x.abs() - threshold).clamp(min=0)


class SoRAPlugin(GatedPlugin):
    """SoRA (Ding et al., EMNLP 2023, arXiv 2311.11696): the rank of each direction is learned.

    The update is ``B diag(g) A``. After each step of Adam, the gate is moved by :func:`soft_threshold`;
    columns whose gate is 0 at the task's end are dropped. As in the authors' code, gates start as standard normal
    numbers. Their code zeroes a second time what is below the threshold after the step, so that it cuts at twice the
    threshold; the published map is used here. Their optimizer is AdamW, for the factors too.

    Args:
        threshold: ``xi``, by which a gate shrinks in each step; 3e-4 in the authors' script. Over ``n`` steps a gate
            that the loss does not need moves by ``n`` times that, so that short tasks drop few columns.

    Raises:
        ValueError: ``threshold`` is out of range.
    """

    def __init__(self, threshold: float = 3e-4) -> None:
        super().__init__()
        if not 0 <= threshold < math.inf:
            raise ValueError(f"threshold={threshold!r}: expected a number of at least 0")
        self.threshold = threshold

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Draws the gates, on the CPU, so that a seed gives equal numbers on every device."""
        super().begin(strategy, projections, num_workers)
        for p in projections:
            p.scale[len(p.bank_A) :] = torch.randn(len(p.A)).to(p.scale)

    def stepped(self, projection: Projection, index: int, gate: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """:func:`soft_threshold` of ``g`` after Adam's step; a gate that is 0 may come back."""
        return soft_threshold(gate - rate * self.adam(index, gradient), self.threshold)
