"""The penalties of ridge regressions, from experience to experience of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.growing import GrowingModule

#: Penalties are chosen anew once there are so many times the samples that they were chosen for.
GROWTH = 1.5


class Penalties(GrowingModule):
    """Keeps the penalties that classifiers chose until the samples have clearly become more.

    To choose one takes all eigenvalues of the second moments, which with 2000 units takes twenty times as long as
    solving the regression. What is right for some samples is right for a few more: under the model that ridge
    regression is made for, the best penalty is the variance of the noise over that of the weights, whatever the number
    of samples. So of ``N`` tasks of one size some ``log N / log 1.5`` choose.

    Attributes:
        values: ``(classifiers,)``, 0 for one that has none; ``(0,)`` before any have been chosen.
        samples: Number of samples that they were chosen for.
    """

    GROWING: ClassVar = {"values": (0,)}

    values: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.empty(0, dtype=torch.float64))
        self.register_buffer("samples", torch.zeros((), dtype=torch.float64))

    def known(self, samples: float) -> list[float | None]:
        """The penalties for so many samples; empty where they are to be chosen."""
        if samples >= GROWTH * self.samples:
            return []
        return [value or None for value in self.values.tolist()]

    @torch.no_grad()
    def keep(self, penalties: Sequence[float | None], samples: float) -> None:
        """Keeps what has been chosen for so many samples."""
        self.replace("values", self.values.new_tensor([p or 0.0 for p in penalties]))
        self.samples.fill_(samples)
