"""Split CIFAR-100 (Krizhevsky, 2009): 100 classes of 32 x 32 pixel photographs."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100

from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.memory import ImagesInMemory, LabelledImages
from benchmarks.images.split import Split

SUBSET_FILE = "cifar100_60x20.npz"
N_CLASSES = 100


def _find(root: Path | None, *, split: Split | None, strict: bool) -> ImagesInMemory:
    """The two parts of :func:`load_images`, as a benchmark takes them."""
    train, test, class_names, where = load_images(root)
    return ImagesInMemory(f"CIFAR-100 from {where}", train, test, tuple(class_names))


def load_images(root: str | Path | None = None) -> tuple[LabelledImages, LabelledImages, list[str], str]:
    """Find CIFAR-100: a small file in a folder of one's own, or torchvision's whole data set.

    Args:
        root: A folder. If it holds ``cifar100_60x20.npz`` (a subset of 60 training and 20 test images a
            class; arrays ``train_x``, ``train_y``, ``test_x``, ``test_y``, ``classes``), that is used, and
            else torchvision's data set in that folder, downloaded where it is missing. By default the folder
            that the environment variable ``SDLORA_DATA`` names, if it holds the small file, and else
            torchvision's in ``data``.

    Returns:
        Training images, test images, the class names, and where they were found.

    Raises:
        ValueError: A file is there and is not as described.
        RuntimeError: Nothing is there and it could not be downloaded.
    """
    folder = Path(root if root is not None else os.environ.get("SDLORA_DATA") or "data")
    subset = folder / SUBSET_FILE
    if subset.is_file():
        return _from_npz(subset)
    return _from_torchvision(folder if root is not None else Path("data"))


def _from_npz(path: Path) -> tuple[LabelledImages, LabelledImages, list[str], str]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = ("train_x", "train_y", "test_x", "test_y", "classes")
            missing = [name for name in names if name not in arrays.files]
            if missing:
                raise ValueError(f"the arrays {', '.join(missing)} are missing")
            train_x, train_y, test_x, test_y, classes = (arrays[name] for name in names)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    what = str(path)
    train, test = _checked(what, "train", train_x, train_y), _checked(what, "test", test_x, test_y)
    names_found = [str(name) for name in classes.tolist()] if classes.ndim == 1 else []
    return train, test, _checked_names(what, names_found), SUBSET_FILE


def _from_torchvision(folder: Path) -> tuple[LabelledImages, LabelledImages, list[str], str]:
    try:
        sets = [CIFAR100(str(folder), train=is_train, download=True) for is_train in (True, False)]
    except (OSError, EOFError, RuntimeError, tarfile.TarError) as error:
        raise RuntimeError(
            f"CIFAR-100 is not in {folder} and could not be downloaded ({error}). Either unpack "
            f"{CIFAR100.url} into {folder}, so that {folder / CIFAR100.base_folder} exists, or let root= "
            f"or the environment variable SDLORA_DATA name a folder with {SUBSET_FILE}."
        ) from error
    what = str(folder / CIFAR100.base_folder)
    train, test = (
        _checked(what, part, data.data, np.asarray(data.targets))
        for part, data in zip(("train", "test"), sets, strict=True)
    )
    return train, test, _checked_names(what, sets[0].classes), "torchvision"


def _checked(what: str, part: str, images: np.ndarray, labels: np.ndarray) -> LabelledImages:
    if images.ndim != 4 or images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8:
        raise ValueError(f"{what}: the {part} images must be (N, 32, 32, 3) uint8; got {images.shape} {images.dtype}.")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{what}: the {part} labels must be {len(images)} whole numbers; got {labels.shape} {labels.dtype}."
        )
    n_found = len(np.unique(labels))
    if n_found != N_CLASSES or labels.min() != 0 or labels.max() != N_CLASSES - 1:
        raise ValueError(f"{what}: the {part} labels must be 0 to {N_CLASSES - 1}, all of them; got {n_found} values.")
    return LabelledImages.from_arrays(images, labels.tolist())


def _checked_names(what: str, names: Sequence[str]) -> list[str]:
    if len(set(names)) != N_CLASSES or len(names) != N_CLASSES:
        raise ValueError(f"{what}: expected {N_CLASSES} distinct class names; got {len(set(names))}.")
    return list(names)


SPLIT_CIFAR100 = BenchmarkSpec("cifar100", _find, n_experiences=10, augment="flip", files=False)
"""The hundred classes, in the paper in 10 experiences.

``flip`` suits few epochs on small images; ``augment="paper"`` is the published recipe. The ``source`` of the benchmark
says which images these are, since the subset and the whole data set give different accuracies.
"""
