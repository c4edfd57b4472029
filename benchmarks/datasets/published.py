"""Published data sets of image files: where they lie, whether they are whole, and where to get them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.images.files import ImageFiles
from benchmarks.images.split import Split


@dataclass(frozen=True)
class PublishedFiles:
    """Finds the images of a published data set.

    Attributes:
        title: Its name in the literature.
        url: Its official address.
        folder: The usual name of its folder.
        layout: Paths that the folder named by ``root`` must hold, for the message.
        marks: Patterns of files below its folder, one of which is there if the data set is.
        read: Reads its lists or its tree.
        n_classes: The published number of classes.
        n_images: The published number of images, of ``train`` and ``test``, or of ``all`` where it has no such parts.
    """

    title: str
    url: str
    folder: str
    layout: str
    marks: tuple[str, ...]
    read: Callable[[Path], Split]
    n_classes: int
    n_images: dict[str, int]

    def find(self, root: Path | None, *, split: Split | None, strict: bool) -> ImageFiles:
        """Find the images; a split that is given is not compared with the published numbers.

        Raises:
            RuntimeError: There is no such data set.
            ValueError: The data set is not as published, or images are missing.
        """
        folder = self.locate(root)
        if split is None:
            split = self.read(folder)
            if strict:
                self._check_numbers(folder, split)
        return ImageFiles(self.title, folder, split)

    def locate(self, root: Path | None) -> Path:
        """``root`` or its subfolder of the usual name; without a root, that of ``SDLORA_DATA`` or of ``data``.

        Raises:
            RuntimeError: There is no such data set.
        """
        bases = [root] if root is not None else [Path(b) for b in (os.environ.get("SDLORA_DATA"), "data") if b]
        for folder in [folder for base in bases for folder in (base / self.folder, base)]:
            if any(path for mark in self.marks for path in folder.glob(mark)):
                return folder
        raise RuntimeError(
            f"{self.title} is not in {' or '.join(map(str, bases))}. Get it from {self.url} and unpack it there, so "
            f"that there is {self.layout}; or let root= or the environment variable SDLORA_DATA name the folder "
            f"that holds {self.folder}."
        )

    def _check_numbers(self, folder: Path, split: Split) -> None:
        n_found = {"train": len(split.part("train")), "test": len(split.part("test")), "all": len(split.images)}
        wrong = [
            f"{found} {what} instead of {expected}"
            for what, found, expected in [
                ("classes", len(split.class_names), self.n_classes),
                *((f"{part} images", n_found[part], number) for part, number in self.n_images.items()),
            ]
            if found != expected
        ]
        if wrong:
            raise ValueError(
                f"{folder} is not {self.title} as published: {', '.join(wrong)}. Unpack {self.url} once more, or take "
                "the images as they are with strict=False."
            )
