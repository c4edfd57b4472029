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
from avalanche_sdlora.metrics.predictions import class_recalls
from avalanche_sdlora.training.features import feature_batches

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
    at once. Global random generators stay as they are.

    Args:
        features: Maps images ``(n, 3, size, size)`` to features ``(n, d)``; the function must not change meanwhile.
        train_stream: Experiences to learn from; their evaluation transforms are used.
        test_stream: Experiences to test on; each has the classes of the training experience at its place.
        batch_size: Images in a batch.
        device: Device that computes.
        num_workers: Number of processes that load images.

    Returns:
        The accuracies along the stream, and the balanced accuracy at its end, by the names of :data:`CLASSIFIERS`;
        classes not seen yet do not compete.
    """

    def extract(experience: Any) -> tuple[Tensor, Tensor]:
        batches = feature_batches(
            features, experience.dataset, batch_size=batch_size, device=device, num_workers=num_workers
        )
        x, y, _ = zip(*batches)
        return F.normalize(torch.cat(x).double(), dim=1), torch.cat(y)

    statistics: FeatureStatistics | None = None
    tests: list[tuple[Tensor, Tensor]] = []
    rows: dict[str, list[list[float]]] = {name: [] for name in CLASSIFIERS}
    balanced: dict[str, float] = {}
    for train, test in zip(train_stream, test_stream, strict=True):
        x, y = extract(train)
        statistics = statistics or FeatureStatistics(x.shape[1]).to(device)
        statistics.update(x, y)
        tests.append(extract(test))
        for name, classifier in CLASSIFIERS.items():
            weight, bias, *_ = classifier(statistics)
            predicted = [statistics.labels[(x @ weight.T + bias).argmax(1)] for x, _ in tests]
            rows[name].append([100 * float((p == y).double().mean()) for p, (_, y) in zip(predicted, tests)])
            recalls = class_recalls(torch.cat([y for _, y in tests]).cpu().numpy(), torch.cat(predicted).cpu().numpy())
            balanced[name] = sum(recalls.values()) / len(recalls)
    samples = [len(y) for _, y in tests]
    return {name: AccuracyMatrix.from_rows(row, samples, balanced[name]) for name, row in rows.items()}
