"""Split digits: 1797 handwritten digits of 8 x 8 pixels, which come with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from benchmarks.images import LabelledImages
from benchmarks.inputs import Augment, InputSpec, check_augment, eval_transform, random_flip, train_transform
from benchmarks.splits import split_by_class

# Above this, prepared images (float32, both splits) would crowd the memory of a small machine.
_CACHE_LIMIT_BYTES = 512 * 2**20


def split_digits(
    n_experiences: int = 5,
    *,
    inputs: InputSpec,
    seed: int = 0,
    augment: Augment | None = None,
    root: str | Path | None = None,
    task_labels: bool = False,
) -> Any:
    """The ten digits in experiences of disjoint classes; needs no files and no network.

    Every fifth image of each class is a test image, whatever the seed. What is not random in the transforms
    is done once, here, so that an epoch reads tensors that are ready (up to 512 MiB of them, that is about
    150 pixels a side).

    Args:
        n_experiences: Length of the stream: 1, 2, 5 or 10.
        inputs: What the backbone expects.
        seed: Gives the class order.
        augment: As for :func:`benchmarks.inputs.train_transform`; ``none`` by default, since a mirrored digit
            is no digit.
        root: Not used; every benchmark of the registry takes it.
        task_labels: As for :func:`benchmarks.splits.split_by_class`.

    Raises:
        ValueError: The split is impossible or ``augment`` unknown.
    """
    del root
    augment = "none" if augment is None else augment
    check_augment(augment)
    train, test = load_images()
    train_random: Any = train_transform(inputs, augment)
    fixed: Any = eval_transform(inputs, crop=False)
    prepared_bytes = (len(train) + len(test)) * 3 * inputs.size**2 * 4
    if augment != "paper" and prepared_bytes <= _CACHE_LIMIT_BYTES:
        train, test = _prepared(train, fixed), _prepared(test, fixed)
        train_random = random_flip() if augment == "flip" else None
        fixed = None
    return split_by_class(
        train,
        test,
        class_names=[str(digit) for digit in range(10)],
        source=f"scikit-learn's handwritten digits: {len(train)} training and {len(test)} test images",
        n_experiences=n_experiences,
        seed=seed,
        train_transform=train_random,
        eval_transform=fixed,
        task_labels=task_labels,
    )


def load_images() -> tuple[LabelledImages, LabelledImages]:
    """The training and test images, ``(N, 3, 8, 8)`` uint8 in three equal channels."""
    pixels, labels = load_digits(return_X_y=True)  # (1797, 64), 0 to 16
    grey = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey, 3, axis=3)  # (1797, 8, 8, 3)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    return (
        LabelledImages.from_arrays(images[~is_test], labels[~is_test]),
        LabelledImages.from_arrays(images[is_test], labels[is_test]),
    )


def _prepared(data: LabelledImages, transform: Any) -> LabelledImages:
    chunks = [transform(chunk) for chunk in data.images.split(256)]
    return LabelledImages(torch.cat(chunks), data.targets)
