"""The training loss: a criterion over the classes of the current experience only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.heads.growing_head import MASKED


class CurrentClassesLoss(GrowingModule):
    """Applies ``criterion`` to the logits of the current classes in training, and unchanged in evaluation.

    The other logits get the value -1000 and therefore no gradient (cross-entropy over the current classes, as in the
    authors' code). A batch that holds other classes too, as replay serves them, is learned over all classes seen.
    Nothing here waits for the device.

    Args:
        criterion: Takes logits ``(n, classes)`` and class labels ``(n,)``.
    """

    GROWING: ClassVar = {"current": (0,), "seen": (0,)}

    current: Tensor
    seen: Tensor

    def __init__(self, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        if getattr(criterion, "label_smoothing", 0):
            raise ValueError(
                f"criterion: label_smoothing={criterion.label_smoothing} spreads probability over classes that do not "  # type: ignore[attr-defined]
                "compete in the current experience; use a criterion without it"
            )
        self.criterion = criterion
        self.register_buffer("current", torch.zeros(0, dtype=torch.bool))  # (classes,)
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))  # (classes,)

    def begin_experience(self, current: Iterable[int], seen: Iterable[int], device: torch.device) -> None:
        """Makes ``current`` the classes to learn, out of all those ``seen`` so far."""
        self.seen = _mask(seen, device)
        self.current = _mask(current, device, width=len(self.seen))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The criterion's value for ``logits (n, classes)`` and ``targets (n,)``."""
        if not self.training:
            return self.criterion(logits, targets)
        others = ~self.current.index_select(0, targets).all()  # a scalar
        competing = self.current | (self.seen & others)  # (classes,)
        competing = F.pad(competing, (0, logits.shape[1] - len(competing)))
        return self.criterion(logits.masked_fill(~competing, MASKED), targets)


def _mask(labels: Iterable[int], device: torch.device, width: int = 0) -> Tensor:
    index = torch.tensor(sorted(labels))
    mask = torch.zeros(max(width, int(index.max()) + 1), dtype=torch.bool)
    mask[index] = True
    return mask.to(device)
