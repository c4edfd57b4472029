"""Split digits: 1797 handwritten digits of 8 x 8 pixels, which come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.memory import ImagesInMemory, LabelledImages
from benchmarks.images.split import Split


def load_images() -> tuple[LabelledImages, LabelledImages]:
    """The training and test images, ``(N, 3, 8, 8)`` uint8 in three equal channels.

    Every fifth image of each class is a test image, with every seed.
    """
    pixels, labels = load_digits(return_X_y=True)  # (1797, 64), 0 to 16
    grey = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = LabelledImages.from_arrays(np.repeat(grey, 3, axis=3), labels)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    return images.where(~is_test), images.where(is_test)


def _find(root: Path | None, *, split: Split | None, strict: bool) -> ImagesInMemory:
    """The images of :func:`load_images`, which need no files and no network."""
    train, test = load_images()
    return ImagesInMemory("scikit-learn's handwritten digits", train, test, tuple("0123456789"))


SPLIT_DIGITS = BenchmarkSpec("digits", _find, n_experiences=5, augment="none", files=False)
"""The ten digits, usually in 5 experiences; not augmented, since a mirrored digit is no digit."""
