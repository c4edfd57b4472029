"""Labelled images held in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images of one size with a whole-number label each.

    Attributes:
        images: ``(N, 3, H, W)``, uint8, or float32 where they are normalised already.
        targets: The ``N`` labels, as Avalanche reads them.
    """

    def __init__(self, images: Tensor, targets: Sequence[int]) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(targets):
            raise ValueError(
                f"Expected (N, 3, H, W) images and N labels; got {tuple(images.shape)} and {len(targets)}."
            )
        self.images = images
        self.targets = [int(target) for target in targets]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]

    @classmethod
    def from_arrays(cls, images: NDArray[np.uint8], targets: Sequence[int]) -> LabelledImages:
        """Take ``(N, H, W, 3)`` uint8 pixels, the layout of image files."""
        return cls(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), targets)
