"""Which training images are held out, to judge by them what the others taught."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def held_out(targets: Iterable[int], share: float) -> Tensor:
    """Chooses images of every class, at random but in every process alike; no global generator is drawn from.

    Args:
        targets: The class label of each of ``n`` images.
        share: The share of a class's images, rounded to whole images, at least one and never all; a class of one image
            keeps it.

    Returns:
        ``(n,)``, whether each image is held out.
    """
    labels = np.fromiter(map(int, targets), dtype=np.int64)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        # A generator for each class: where its images come again beside other classes, the same ones are held out.
        random = np.random.RandomState(int(label) % 2**32)
        own = random.permutation(np.flatnonzero(labels == label))
        held[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return torch.from_numpy(held)
