"""What needs no training: the yardstick that every trained method must clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_sdlora.metrics import AccuracyMatrix


def nearest_class_mean(
    features: Callable[[Tensor], Tensor],
    train_stream: Sequence[Any],
    test_stream: Sequence[Any],
    *,
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
) -> AccuracyMatrix:
    """Class means of frozen features, learned along the stream and never trained.

    Features are scaled to unit length, a class is the mean of its training features, and an image belongs to the
    class whose mean has the largest cosine with its feature (SimpleCIL: Zhou et al., "Revisiting Class-Incremental
    Learning with Pre-Trained Models", IJCV 2024).

    Args:
        features: Images ``(n, 3, size, size)`` to features ``(n, d)``; the same function for the whole stream.
        train_stream: Experiences to learn from; their evaluation transforms are used.
        test_stream: Experiences to test on, with the same classes in the same order.
        batch_size: Images at once.
        device: Where to compute.
        num_workers: Loader processes.

    Returns:
        The accuracies along the stream; classes not seen yet do not compete.
    """

    def extract(experience: Any) -> tuple[Tensor, Tensor]:
        loader = DataLoader(experience.dataset.eval(), batch_size=batch_size, num_workers=num_workers)
        pairs = [(features(x.to(device)), y.to(device)) for x, y, *_ in loader]
        return F.normalize(torch.cat([f.float() for f, _ in pairs]), dim=1), torch.cat([y for _, y in pairs])

    means: list[Tensor] = []
    labels: list[Tensor] = []
    tests: list[tuple[Tensor, Tensor]] = []
    rows: list[list[float]] = []
    with torch.no_grad():
        for train, test in zip(train_stream, test_stream, strict=True):
            x, y = extract(train)
            for label in y.unique():
                means.append(F.normalize(x[y == label].mean(0), dim=0))
                labels.append(label)
            tests.append(extract(test))
            classifier, names = torch.stack(means), torch.stack(labels)  # (classes, d), (classes,)
            hits = [(names[(x @ classifier.T).argmax(1)] == y).double().mean() for x, y in tests]
            rows.append([100 * float(hit) for hit in hits])
    return AccuracyMatrix.from_rows(rows, [len(y) for _, y in tests])
