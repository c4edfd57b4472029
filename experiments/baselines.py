"""Training-free classifiers on frozen features: the yardsticks that every trained method must clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_sdlora.heads.discriminant import fit_ncm
from avalanche_sdlora.heads.ridge import fit_ridge
from avalanche_sdlora.heads.statistics import FeatureStatistics
from avalanche_sdlora.metrics import AccuracyMatrix
from avalanche_sdlora.processes import all_sum, size
from avalanche_sdlora.training.features import feature_batches, own_part

#: Functions that make a linear classifier from statistics; they return its weight ``(classes, d)`` and bias
#: ``(classes,)`` first.
CLASSIFIERS: dict[str, Callable[[FeatureStatistics], tuple[Any, ...]]] = {
    "nearest_class_mean": fit_ncm,
    "ridge": fit_ridge,
}


def frozen_baselines(
    features: Callable[[Tensor], Tensor],
    train_stream: Sequence[Any],
    test_stream: Sequence[Any],
    *,
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
) -> dict[str, AccuracyMatrix]:
    """Solve classifiers in closed form on frozen features of unit length, along the stream.

    A classifier is made from sums over the samples seen so far, so that it equals the classifier of all these samples
    at once. Global random generators stay as they are. Each of several processes passes over its part of the images.

    Args:
        features: Maps images ``(n, 3, size, size)`` to features ``(n, d)``; the function must not change meanwhile.
        train_stream: Experiences to learn from; their evaluation transforms are used.
        test_stream: Experiences to test on; each has the classes of the training experience at its place.
        batch_size: Images in a batch, over all processes together.
        device: Device that computes.
        num_workers: Number of processes that load images.

    Returns:
        The accuracies along the stream, and the balanced accuracy at its end, by the names of :data:`CLASSIFIERS`;
        classes not seen yet do not compete.
    """

    def extract(experience: Any) -> tuple[Tensor, Tensor]:
        data = own_part(experience.dataset)
        none = not len(data)  # then the first image says how large features are
        batches = feature_batches(
            features,
            experience.dataset.subset([0]) if none else data,
            batch_size=-(-batch_size // size()),
            device=device,
            num_workers=num_workers,
        )
        x, y, _ = zip(*batches)
        own = slice(0, 0) if none else slice(None)
        return F.normalize(torch.cat(x).double(), dim=1)[own], torch.cat(y)[own]

    statistics: FeatureStatistics | None = None
    tests: list[tuple[Tensor, Tensor]] = []
    samples: list[int] = []
    rows: dict[str, list[list[float]]] = {name: [] for name in CLASSIFIERS}
    balanced: dict[str, float] = {}
    for train, test in zip(train_stream, test_stream, strict=True):
        x, y = extract(train)
        statistics = statistics or FeatureStatistics(x.shape[1]).to(device)
        added = FeatureStatistics(x.shape[1]).to(device)
        added.update(x, y)
        added.sum_over_processes()
        statistics.add(added)
        tests.append(extract(test))
        samples.append(len(test.dataset))
        for name, classifier in CLASSIFIERS.items():
            weight, bias, *_ = classifier(statistics)
            predicted = [statistics.labels[(x @ weight.T + bias).argmax(1)] for x, _ in tests]
            hits = torch.stack([(p == y).sum() for p, (_, y) in zip(predicted, tests)])
            rows[name].append([100 * int(hit) / n for hit, n in zip(all_sum(hits), samples)])
            balanced[name] = _balanced(torch.cat(predicted), torch.cat([y for _, y in tests]), statistics.labels)
    return {name: AccuracyMatrix.from_rows(row, samples, balanced[name]) for name, row in rows.items()}


def _balanced(predicted: Tensor, labels: Tensor, classes: Tensor) -> float:
    """The mean of the recalls of ``classes (C,)`` in percent, from the test images of all processes."""
    own = labels == classes[:, None]  # (C, n)
    counts = all_sum(torch.stack([(own & (predicted == labels)).sum(1), own.sum(1)])).double()
    right, all_of_them = counts[:, counts[1] > 0]
    return 100 * float((right / all_of_them).mean())
