"""What all benchmarks have in common: from a data set's images to an Avalanche benchmark."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.image_files import Cache, check_cache
from benchmarks.images import Ready
from benchmarks.inputs import Augment, InputSpec, check_augment
from benchmarks.split_file import Split, some
from benchmarks.splits import classes_per_experience, split_by_class, split_by_domain


class Images(Protocol):
    """The images of a data set; :class:`benchmarks.images.ImagesInMemory` or ``image_files.ImageFiles``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in the order of the labels."""

    @property
    def source(self) -> str:
        """One line that says which images these are."""

    @property
    def digest(self) -> str:
        """Equal for equal images in equal parts, 64 hexadecimal digits."""

    @property
    def split(self) -> Split | None:
        """Which file is of which class and part; None where images are not files."""

    @property
    def skipped(self) -> Sequence[str]:
        """Paths of images that cannot be read and are left out."""

    @property
    def converted(self) -> Mapping[str, int]:
        """How many images had to be converted to RGB, by PIL's name of their mode."""

    @property
    def class_order(self) -> Sequence[str] | Path | None:
        """The order of arrival by class names, or a file of it, if one comes with the images."""

    def readable(self) -> Any:
        """The same without what cannot be read."""

    def hold_out(self, fraction: float) -> Any:
        """The same with a share of the training images in place of the test images."""

    def ready(self, inputs: InputSpec, augment: Augment, *, cache: Cache | None, cache_mb: float | None) -> Ready:
        """Data sets and transforms."""


class FindImages(Protocol):
    """Finds the images of a data set."""

    def __call__(self, root: Path | None, *, split: Split | None, strict: bool) -> Images:
        """Images in the folder ``root``, or where they usually are; parts as ``split`` says, if it is given."""


@dataclass(frozen=True)
class Stream:
    """A function that makes one benchmark; every benchmark is made by one of these.

    Attributes:
        name: Its name in :data:`benchmarks.BENCHMARKS`.
        find: Finds the images.
        n_experiences: The usual length of the stream.
        augment: The usual augmentation.
        files: Its images are files: they can be cached, and split by a file.
        uneven: Experiences may differ by one class; where no published split says otherwise.
        by_domain: An experience brings a domain rather than classes.
        locate: Finds the folder of the images or says that there is none, without looking at any; None where missing
            images are downloaded, or come with a library.
    """

    name: str
    find: FindImages
    n_experiences: int
    augment: Augment = "paper"
    files: bool = True
    uneven: bool = False
    by_domain: bool = False
    locate: Callable[[Path | None], Path] | None = None

    def __call__(
        self,
        n_experiences: int | None = None,
        *,
        inputs: InputSpec,
        seed: int = 0,
        root: str | os.PathLike[str] | None = None,
        augment: Augment | None = None,
        task_labels: bool = False,
        cache: Cache | None = None,
        cache_mb: float | None = None,
        validation: float | None = None,
        split: str | os.PathLike[str] | Split | None = None,
        class_order: str | os.PathLike[str] | Sequence[str] | None = None,
        strict: bool = True,
    ) -> Any:
        """Make the benchmark; arguments, result and errors are those of :func:`benchmarks.make_benchmark`."""
        augment = self.augment if augment is None else augment
        check_augment(augment)
        self._check_options(n_experiences, cache, cache_mb, split, class_order)
        if validation is not None and not 0 < validation < 1:
            raise ValueError(f"validation={validation}: expected a share of the training images between 0 and 1.")
        given = split if split is None or isinstance(split, Split) else Split.load(split)
        images = self.find(None if root is None else Path(root), split=given, strict=strict)
        length = self.n_experiences if n_experiences is None else n_experiences
        if self.by_domain:  # all of this before every image is looked at
            _domains(images.split)
        else:
            classes_per_experience(len(images.class_names), length, uneven=self.uneven)
            order = _order(class_order if class_order is not None else images.class_order, images.class_names)
        images = images.readable()
        if validation is not None:
            images = images.hold_out(validation)
        ready = images.ready(inputs, augment, cache=cache, cache_mb=cache_mb)
        common: dict[str, Any] = {
            "class_names": images.class_names,
            "source": images.source + ready.note,
            "seed": seed,
            "train_transform": ready.train_transform,
            "eval_transform": ready.eval_transform,
            "task_labels": task_labels,
        }
        if self.by_domain:
            benchmark = split_by_domain(ready.train, ready.test, **_domains(images.split), **common)
        else:
            benchmark = split_by_class(
                ready.train, ready.test, n_experiences=length, order=order, uneven=self.uneven, **common
            )
        benchmark.digest = images.digest
        benchmark.split = images.split
        benchmark.skipped = list(images.skipped)
        benchmark.converted = dict(images.converted)
        return benchmark

    def _check_options(self, n_experiences: Any, cache: Any, cache_mb: Any, split: Any, class_order: Any) -> None:
        if not self.files:
            if cache is not None or cache_mb is not None:
                raise ValueError(f"cache={cache!r}, cache_mb={cache_mb}: {self.name} decodes no files.")
            if split is not None:
                raise ValueError(f"split={split!r}: the images of {self.name} are no files that a split could name.")
        check_cache(cache, cache_mb)
        if self.by_domain and n_experiences not in (None, self.n_experiences):
            raise ValueError(
                f"{self.name} has an experience for each of {self.n_experiences} domains; got {n_experiences}."
            )
        if self.by_domain and class_order is not None:
            raise ValueError(f"class_order={class_order!r}: {self.name} brings domains one after another, not classes.")


def _domains(split: Split | None) -> dict[str, Any]:
    found = (
        {f"{part}_domains": [image.domain for image in split.part(part)] for part in ("train", "test")} if split else {}
    )
    if not found or any(None in domains for domains in found.values()):
        raise ValueError("A stream of domains needs the domain of every image; the split lacks some.")
    return found


def _order(given: Any, class_names: Sequence[str]) -> list[int] | None:
    """The labels of class names that are given or written in a file, a name on a line."""
    if given is None:
        return None
    where = "class_order"
    if isinstance(given, str | os.PathLike):
        where = f"class_order={os.fspath(given)!r}"
        try:
            given = [line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} cannot be read: {error}.") from error
    if sorted(given) != sorted(class_names):
        wrong = {"missing": set(class_names) - set(given), "unknown": set(given) - set(class_names)}
        what = "; ".join(f"{kind}: {some(names)}" for kind, names in wrong.items() if names) or "some come twice"
        raise ValueError(f"{where} must name each of the {len(class_names)} classes once; {what}.")
    labels = {name: label for label, name in enumerate(class_names)}
    return [labels[name] for name in given]
