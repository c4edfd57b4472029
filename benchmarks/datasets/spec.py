"""How a file of this folder describes its benchmark: its name, where its images are, its usual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.images.choices import Augment
from benchmarks.images.files import ImageFiles
from benchmarks.images.memory import ImagesInMemory
from benchmarks.images.split import Split


class FindImages(Protocol):
    """Finds the images of a data set."""

    def __call__(self, root: Path | None, *, split: Split | None, strict: bool) -> ImagesInMemory | ImageFiles:
        """Find the training and the test images.

        Args:
            root: A folder that holds them; None: where they usually are.
            split: Which image is of which part, instead of the data set's own parts.
            strict: Refuse other numbers of classes and images than the published ones.
        """


@dataclass(frozen=True)
class BenchmarkSpec:
    """A data set and the stream that is usually made of it.

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
