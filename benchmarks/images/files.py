"""A data set of image files: a folder and a split of its images, without those that cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchvision.transforms import v2

from benchmarks.images.cache import CachedImages
from benchmarks.images.choices import Augment, Cache
from benchmarks.images.prepared import PreparedImages, describe
from benchmarks.images.readable import cache_folder, look_at
from benchmarks.images.split import Split, SplitImage, some
from benchmarks.images.store import ImageStore
from benchmarks.images.transforms import InputSpec, eval_transform, train_transform

_CACHE_MB = 32 * 1024


@dataclass(frozen=True)
class ImageFiles:
    """Photographs in files, decoded when they are needed.

    Attributes:
        title: The name of the data set.
        root: The folder that the paths of the split start from.
        split: The images that are used.
        skipped: Paths of images of the split that cannot be read, and so are left out.
        converted: How many images are in which of PIL's modes other than RGB; they are converted.
        class_order: The order of arrival of the classes, by name, or a file of it, if one comes with the images.
        validation: The share of the training images that stands in for the test images, if any.
    """

    title: str
    root: Path
    split: Split
    skipped: tuple[str, ...] = ()
    converted: Mapping[str, int] = field(default_factory=dict)
    class_order: Sequence[str] | Path | None = None
    validation: float | None = None

    def readable(self) -> ImageFiles:
        """This data set without the images that cannot be read, which a warning counts.

        Every file is decoded once, and looked at again only when one has changed (see
        :func:`benchmarks.images.readable.look_at`), so that a damaged file is found now and not in the middle of a run.

        Raises:
            ValueError: Images of the split are missing, or none of a class can be read.
        """
        found = look_at(self.root, [image.path for image in self.split.images])
        if found.unreadable:
            first = min(found.unreadable)
            warnings.warn(
                f"{self.root}: {len(found.unreadable)} of {len(self.split.images)} images cannot be read and are left "
                f"out: {some(found.unreadable)}. Of the first: {found.unreadable[first]}.",
                stacklevel=3,
            )
        skipped = tuple(sorted(found.unreadable))
        return replace(self, split=self.split.without(found.unreadable), skipped=skipped, converted=found.converted)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in the order of the labels."""
        return self.split.class_names

    @property
    def digest(self) -> str:
        """The digest of the split."""
        return self.split.digest

    @property
    def source(self) -> str:
        """One line that says which images these are."""
        n_train, n_test = (len(self.split.part(part)) for part in ("train", "test"))
        line = describe(f"{self.title} in {self.root}", n_train, n_test, self.validation, self.skipped)
        modes = ", ".join(f"{count} {mode}" for mode, count in self.converted.items())
        line += f", of other colours than RGB and converted: {modes}" if modes else ""
        return line + (f", classes in the order of {self.class_order}" if self.class_order else "")

    @property
    def caption(self) -> str:
        """One line that says which images these are, with the name of their folder and not its path."""
        n_train, n_test = (len(self.split.part(part)) for part in ("train", "test"))
        title = f"{self.title} in {self.root.resolve().name}"
        return describe(title, n_train, n_test, self.validation, self.skipped)

    def hold_out(self, fraction: float) -> ImageFiles:
        """This data set with held-out training images in place of the test images; see :meth:`Split.hold_out`."""
        return replace(self, split=self.split.hold_out(fraction), validation=fraction)

    def prepare(
        self, inputs: InputSpec, augment: Augment, *, cache: Cache | None = None, cache_mb: float | None = None
    ) -> PreparedImages:
        """The images and their transforms; test images are resized and cropped.

        With a cache, images are kept with their shorter side at the length that the evaluation resizes to, which leaves
        every evaluation as it is, to the bit; training crops are then cut from the reduced images (see
        :class:`benchmarks.images.cache.CachedImages`).

        Args:
            inputs: The input that the backbone expects.
            augment: As for :func:`benchmarks.images.transforms.train_transform`.
            cache: ``disk``: keep decoded images in the user's cache folder, for every run to come; None: keep
                none.
            cache_mb: The size of the cache in MiB at most; by default 32768.
        """
        fixed: Any = eval_transform(inputs, crop=True)
        shorter_side = next(step.size[0] for step in fixed.transforms if isinstance(step, v2.Resize))
        store = None if cache is None else ImageStore(cache_folder() / "decoded", cache_mb or _CACHE_MB)
        data = []
        for part in ("train", "test"):
            images: list[SplitImage] = self.split.part(part)
            data.append(
                CachedImages(
                    [self.root / image.path for image in images],
                    [image.label for image in images],
                    shorter_side=None if cache is None else shorter_side,
                    interpolation=inputs.interpolation,
                    store=store,
                )
            )
        note = "" if cache is None else f", reduced to at most {shorter_side} pixels on the shorter side"
        return PreparedImages(data[0], data[1], train_transform(inputs, augment), fixed, note)
