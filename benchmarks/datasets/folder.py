"""A folder of images of one's own as a class-incremental benchmark; published trees of that layout are read here."""

from __future__ import annotations

from pathlib import Path

from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.files import ImageFiles
from benchmarks.images.split import Split, some

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
CLASS_ORDER_FILE = "class_order.txt"

_LAYOUT = "expected ROOT/train/CLASS/IMAGE and ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE"

_Files = dict[str, list[Path]]  # class name to its images, both sorted by name


def find_images(root: Path) -> tuple[_Files, _Files]:
    """Find the training and the test images of each class.

    The folder holds ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``; or just ``CLASS/IMAGE``, and then every fifth image
    of each class by name, from the first, is a test image, with every seed and every order on disk. Hidden files and
    files without an image's suffix are left out.

    Raises:
        ValueError: There is no such folder, it is laid out otherwise, or a class lacks images.
    """
    _locate(root)
    if all(_folders(root / part) for part in ("train", "test")):
        train, test = _classes(root / "train"), _classes(root / "test")
        for part, lacking in (("test", train.keys() - test.keys()), ("train", test.keys() - train.keys())):
            if lacking:
                raise ValueError(f"{root / part} lacks the classes {some(lacking)}; both parts need all of them.")
    else:
        found = _classes(root)
        test = {name: paths[::5] for name, paths in found.items()}
        train = {name: [path for i, path in enumerate(paths) if i % 5] for name, paths in found.items()}
        single = [name for name, paths in train.items() if not paths]
        if single:
            raise ValueError(f"{root}: one image is too few to train and test on; classes {some(single)}.")
    if len(train) < 2:
        raise ValueError(f"{root} holds one class only, {some(train)}; there is nothing to tell apart.")
    return train, test


def read_tree(root: Path, name: str | None = None) -> Split:
    """The split of :func:`find_images`, classes sorted by name.

    Raises:
        ValueError: As :func:`find_images`.
    """
    parts = [
        {label: [path.relative_to(root).as_posix() for path in paths] for label, paths in part.items()}
        for part in find_images(root)
    ]
    return Split.of(name or root.resolve().name, *parts)


def _find(root: Path | None, *, split: Split | None, strict: bool) -> ImageFiles:
    """The images of the folder ``root``, in the parts of ``split`` or else of :func:`read_tree`."""
    del strict  # no numbers are published
    folder = _locate(root)
    order = folder / CLASS_ORDER_FILE
    return ImageFiles("images", folder, split or read_tree(folder), class_order=order if order.is_file() else None)


def _locate(root: Path | None) -> Path:
    if root is None:
        raise ValueError(f"root=None: name the folder of images; {_LAYOUT}.")
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}; {_LAYOUT}.")
    return root


def _classes(folder: Path) -> _Files:
    found = {
        path.name: sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
        for path in _folders(folder)
    }
    empty = [name for name, paths in found.items() if not paths]
    if empty or not found:
        where = f"the folders {some(empty)} in {folder}" if empty else folder
        raise ValueError(f"There are no images in {where}; {_LAYOUT}.")
    return found


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


SPLIT_FOLDER = BenchmarkSpec("folder", _find, n_experiences=10, uneven=True, locate=_locate)
"""The classes of the folder that ``root`` names; ``class_order.txt`` in it, a class on a line, gives their order."""
