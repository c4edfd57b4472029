"""A folder of images of one's own as a class-incremental benchmark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from torchvision.transforms import v2

from benchmarks.cache import CachedImages
from benchmarks.inputs import Augment, InputSpec, eval_transform, train_transform
from benchmarks.splits import split_by_class

Cache = Literal["memory", "disk"]

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))

_CACHE_MB = {"memory": 4 * 1024, "disk": 32 * 1024}
_LAYOUT = "expected ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE"

_Files = dict[str, list[Path]]  # class name to its images, both sorted by name


def split_folder(
    n_experiences: int = 10,
    *,
    inputs: InputSpec,
    seed: int = 0,
    augment: Augment | None = None,
    root: str | os.PathLike[str] | None = None,
    task_labels: bool = False,
    cache: Cache | None = None,
    cache_mb: float | None = None,
) -> Any:
    """The classes of a folder, sorted by name, in experiences of disjoint classes.

    The folder holds ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``; or just ``CLASS/IMAGE``, and then every fifth image
    of each class by name, from the first, is a test image: whatever the seed and the order on disk, and spread over
    whatever the names sort by. Hidden files and files without an image's suffix are left out.

    Test images are resized and cropped as :func:`benchmarks.inputs.eval_transform` does for photographs. With a cache,
    images are kept with their shorter side at the length that this resizes to, which leaves every evaluation as it
    is, to the bit; training crops are then cut from the reduced images (see :class:`benchmarks.cache.CachedImages`).

    Args:
        n_experiences: Length of the stream; a divisor of the number of classes.
        inputs: What the backbone expects.
        seed: Gives the class order.
        augment: As for :func:`benchmarks.inputs.train_transform`; ``paper`` by default.
        root: The folder.
        task_labels: As for :func:`benchmarks.splits.split_by_class`.
        cache: Keep decoded images: in ``memory``, for this run; on ``disk``, in the user's cache folder, for every run
            to come; None: not at all.
        cache_mb: So many MiB of them at most; by default 4096 in memory and 32768 on disk.

    Returns:
        The benchmark of :func:`benchmarks.splits.split_by_class`.

    Raises:
        ValueError: There is no such folder, it is laid out otherwise, a class lacks images, the split is impossible, or
            ``augment`` or ``cache`` is unknown. Later, while images are loaded: one cannot be read.
    """
    fixed: Any = eval_transform(inputs, crop=True)
    random = train_transform(inputs, "paper" if augment is None else augment)
    if root is None:
        raise ValueError(f"root=None: name the folder of images; {_LAYOUT}.")
    folder = Path(root)
    train, test = find_images(folder)
    resize = next(step for step in fixed.transforms if isinstance(step, v2.Resize))
    files = {"train": train, "test": test}
    counts = {part: sum(map(len, found.values())) for part, found in files.items()}
    data: dict[str, Any] = {}
    for part, found in files.items():
        share = counts[part] / sum(counts.values())
        data[part] = CachedImages(
            [path for paths in found.values() for path in paths],
            [label for label, paths in enumerate(found.values()) for _ in paths],
            shorter_side=None if cache is None else resize.size[0],
            interpolation=inputs.interpolation,
            **_limits(cache, cache_mb, share),
        )
    reduced = "" if cache is None else f", reduced to at most {resize.size[0]} pixels on the shorter side"
    return split_by_class(
        data["train"],
        data["test"],
        class_names=list(train),
        source=f"{folder}: {counts['train']} training and {counts['test']} test images{reduced}",
        n_experiences=n_experiences,
        seed=seed,
        train_transform=random,
        eval_transform=fixed,
        task_labels=task_labels,
    )


def find_images(root: Path) -> tuple[_Files, _Files]:
    """Find the training and the test images of each class; see :func:`split_folder`.

    Raises:
        ValueError: As there.
    """
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}; {_LAYOUT}.")
    if all(_folders(root / part) for part in ("train", "test")):
        train, test = _classes(root / "train"), _classes(root / "test")
        for part, lacking in (("test", train.keys() - test.keys()), ("train", test.keys() - train.keys())):
            if lacking:
                raise ValueError(f"{root / part} lacks the classes {_some(lacking)}; both parts need all of them.")
    else:
        found = _classes(root)
        test = {name: paths[::5] for name, paths in found.items()}
        train = {name: [path for i, path in enumerate(paths) if i % 5] for name, paths in found.items()}
        single = [name for name, paths in train.items() if not paths]
        if single:
            raise ValueError(f"{root}: one image is too few to train and test on; classes {_some(single)}.")
    if len(train) < 2:
        raise ValueError(f"{root} holds one class only, {_some(train)}; there is nothing to tell apart.")
    return train, test


def _classes(folder: Path) -> _Files:
    found = {
        path.name: sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
        for path in _folders(folder)
    }
    empty = [name for name, paths in found.items() if not paths]
    if empty or not found:
        where = f"the folders {_some(empty)} in {folder}" if empty else folder
        raise ValueError(f"There are no images in {where}; {_LAYOUT}.")
    return found


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _limits(cache: Cache | None, cache_mb: float | None, share: float) -> dict[str, Any]:
    if cache is None:
        if cache_mb is not None:
            raise ValueError(f"cache_mb={cache_mb} limits a cache; choose cache={' or cache='.join(get_args(Cache))}.")
        return {}
    if cache not in get_args(Cache):
        raise ValueError(f"Unknown cache {cache!r}; one of {', '.join(get_args(Cache))}.")
    limit = _CACHE_MB[cache] if cache_mb is None else cache_mb
    if not limit > 0:
        raise ValueError(f"cache_mb={cache_mb}: expected a number above 0.")
    if cache == "memory":
        return {"memory_mb": limit * share}  # training and test images each have a region of their own
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return {"cache_dir": Path(base, "avalanche_sdlora", "images"), "disk_mb": limit}
