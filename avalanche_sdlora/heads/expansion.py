"""A fixed random expansion of the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.functional import linear_layer


class RandomExpansion(nn.Module):
    """``relu(x P)`` with a fixed standard normal ``P (d, M)``, as in RanPAC (McDonnell et al., NeurIPS 2023).

    The state is the seed alone: ``RandomState`` draws equal numbers in all versions of numpy, so that a seed gives one
    matrix everywhere. No global generator is drawn from.

    Args:
        features: ``d``.
        units: ``M``.
        seed: Draws the matrix.
    """

    seed: Tensor
    weight: Tensor

    def __init__(self, features: int, units: int, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("weight", torch.empty(units, features), persistent=False)
        self._draw()

    def _draw(self) -> None:
        units, features = self.weight.shape
        numbers = np.random.RandomState(int(self.seed)).standard_normal((features, units))
        self.weight.copy_(torch.from_numpy(numbers).T)

    def forward(self, x: Tensor, units: int | None = None) -> Tensor:
        """``(n, d)`` to ``(n, M)``, or to the first ``units`` of them."""
        return torch.nn.functional.linear(x, self.weight[:units].to(x.dtype)).relu()

    @torch.no_grad()
    def plain(
        self, A: Tensor | None = None, c: Tensor | None = None, units: int | None = None, *, passing: bool = False
    ) -> nn.Sequential:
        """``x -> relu((A x + c) P)`` as layers of torch; without ``A`` and ``c``, ``relu(x P)``.

        Args:
            A: ``(d, d)``, or None.
            c: ``(d,)``, or None.
            units: Only the first so many columns of ``P``; None: all.
            passing: With ``2 d`` columns more, the identity and its negative.
        """
        P = self.weight[:units].double()
        if passing:
            identity = torch.eye(P.shape[1], dtype=P.dtype, device=P.device)
            P = torch.cat([P, identity, -identity])
        weight = P if A is None else P @ A
        bias = P.new_zeros(len(P)) if c is None else P @ c
        return nn.Sequential(linear_layer(weight.to(self.weight), bias), nn.ReLU())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._draw()
