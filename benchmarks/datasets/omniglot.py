"""Split Omniglot (Lake et al., 2015): 242 hand-written characters of eight alphabets, drawn by 20 people each.

These are the characters of the two small background sets, which share some; the whole background set gives equal
images of them.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import Omniglot

from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.memory import ImagesInMemory, LabelledImages
from benchmarks.images.split import Split

ZIP_FILES = ("omniglot_images_background_small1.zip", "omniglot_images_background_small2.zip")
ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Japanese_(katakana)", "Korean", "Latin", "Sanskrit", "Tagalog")
N_CLASSES = 242
N_IMAGES = 4840
SIZE = 105

_URL = "https://github.com/brendenlake/omniglot/tree/master/python"


def load_images(root: Path | None = None, *, strict: bool = True) -> ImagesInMemory:
    """Find Omniglot: the two zip files in a folder of one's own, or torchvision's background set.

    Of the 20 drawings of a character, every fifth by its number is a test image, from the first.

    Args:
        root: A folder. If it holds ``omniglot_images_background_small1.zip`` and ``..._small2.zip``, these are merged,
            and else torchvision's data set is used in that folder, downloaded where it is missing. By default the
            folder that the environment variable ``SDLORA_DATA`` names, if it holds the zip files, and else
            torchvision's in ``data``.
        strict: Refuse other numbers of characters and images than the published 242 and 4840.

    Raises:
        ValueError: The files are not as described.
        RuntimeError: Nothing is there and it could not be downloaded.
    """
    folder = Path(root if root is not None else os.environ.get("SDLORA_DATA") or "data")
    zips = [folder / name for name in ZIP_FILES]
    if all(path.is_file() for path in zips):
        title = "Omniglot, small background sets"
        files = dict(image for path in zips for image in _zipped(path))
    else:
        title = "Omniglot from torchvision"
        files = dict(_unpacked(folder if root is not None else Path("data")))
    names = sorted({str(PurePosixPath(path).parent) for path in files})
    if strict and (len(names) != N_CLASSES or len(files) != N_IMAGES):
        raise ValueError(
            f"{folder} is not Omniglot as published: {len(names)} characters instead of {N_CLASSES} and {len(files)} "
            f"images instead of {N_IMAGES}. Get it from {_URL} once more, or take the images as they are with "
            "strict=False."
        )
    return _in_memory(title, dict(sorted(files.items())), names)


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each image's ``ALPHABET/CHARACTER/IMAGE.png`` and content."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".png"):
                    yield "/".join(PurePosixPath(name).parts[-3:]), archive.read(name)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _unpacked(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each image's ``ALPHABET/CHARACTER/IMAGE.png`` and content from torchvision's tree."""
    tree = folder / Omniglot.folder / "images_background"
    if not all((tree / alphabet).is_dir() for alphabet in ALPHABETS):
        try:
            Omniglot(str(folder), background=True, download=True)
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise RuntimeError(
                f"Omniglot is not in {folder} and could not be downloaded ({error}). Get images_background.zip from "
                f"{_URL} and unpack it into {folder / Omniglot.folder}, so that {tree / 'Greek/character01'} exists; "
                f"or let root= or the environment variable SDLORA_DATA name a folder with {' and '.join(ZIP_FILES)}."
            ) from error
    for alphabet in ALPHABETS:
        for path in sorted((tree / alphabet).glob("*/*.png")):
            yield path.relative_to(tree).as_posix(), path.read_bytes()


def _in_memory(title: str, files: dict[str, bytes], names: list[str]) -> ImagesInMemory:
    images, labels, is_test, skipped = [], [], [], []
    seen = dict.fromkeys(names, 0)
    for path, content in files.items():
        name = str(PurePosixPath(path).parent)
        place = seen[name]
        seen[name] += 1
        try:
            with Image.open(io.BytesIO(content)) as image:
                grey = np.asarray(image.convert("L"))
            if grey.shape != (SIZE, SIZE):
                raise ValueError(f"{grey.shape} pixels")
        except Exception:  # damaged files make PIL's readers raise nearly anything
            skipped.append(path)
            continue
        images.append(torch.from_numpy(grey.copy()))
        labels.append(names.index(name))
        is_test.append(place % 5 == 0)
    # Three equal channels that share their memory.
    data = LabelledImages(torch.stack(images)[:, None].expand(-1, 3, -1, -1), labels)
    train, test = data.where([not out for out in is_test]), data.where(is_test)
    return ImagesInMemory(title, train, test, tuple(names), tuple(skipped))


def _find(root: Path | None, *, split: Split | None, strict: bool) -> ImagesInMemory:
    """The images of :func:`load_images`."""
    return load_images(root, strict=strict)


SPLIT_OMNIGLOT = BenchmarkSpec("omniglot", _find, n_experiences=11, augment="none", files=False, uneven=True)
"""The 242 characters, in 11 experiences of 22 unless told otherwise: any length is possible, with experiences that
differ by one class; not augmented, since a mirrored character is another one."""
