"""Labelled images held in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from benchmarks.images.choices import Augment
from benchmarks.images.prepared import PreparedImages, describe
from benchmarks.images.transforms import InputSpec, eval_transform, normalize, random_flip, resize, train_transform
from benchmarks.images.validation import held_out

# Above this, prepared images (both parts) would crowd the memory of a small machine.
_PREPARED_BYTES = 1536 * 2**20


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images of one size with a whole-number label each.

    Attributes:
        images: ``(N, 3, H, W)``, uint8, or float32 where they are normalised already.
        targets: The ``N`` labels, as Avalanche reads them.
    """

    def __init__(self, images: Tensor, targets: Sequence[int]) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(targets):
            raise ValueError(
                f"Expected (N, 3, H, W) images and N labels; got {tuple(images.shape)} and {len(targets)}."
            )
        self.images = images
        self.targets = [int(target) for target in targets]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]

    @classmethod
    def from_arrays(cls, images: NDArray[np.uint8], targets: Sequence[int]) -> LabelledImages:
        """Take ``(N, H, W, 3)`` uint8 pixels, the layout of image files."""
        return cls(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), targets)

    def where(self, chosen: Iterable[bool]) -> LabelledImages:
        """The images that are chosen."""
        places = [i for i, is_in in enumerate(chosen) if is_in]
        # Grey images have three channels that are one in memory, which indexing would copy apart.
        images = self.images[:, :1] if self.images.stride(1) == 0 else self.images
        return LabelledImages(images[places].expand(-1, 3, -1, -1), [self.targets[i] for i in places])


@dataclass(frozen=True)
class ImagesInMemory:
    """A data set of small images, whole in memory.

    Attributes:
        title: The name of the data set and where it came from.
        train: Training images, uint8.
        test: Test images, uint8.
        class_names: The names in the order of the labels.
        skipped: Paths of images that could not be read, and so are left out.
        validation: The share of the training images that stands in for the test images, if any.
    """

    title: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    validation: float | None = None
    split: None = field(default=None, init=False)
    class_order: None = field(default=None, init=False)
    converted: Mapping[str, int] = field(default_factory=dict, init=False)

    @property
    def source(self) -> str:
        """One line that says which images these are."""
        return describe(self.title, len(self.train), len(self.test), self.validation, self.skipped)

    @property
    def caption(self) -> str:
        """One line that says which images these are, as :attr:`source`, which names no folder."""
        return self.source

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the class names, labels and pixels of both parts: 64 hexadecimal digits."""
        content = hashlib.sha256(json.dumps(self.class_names).encode())
        for part in (self.train, self.test):
            content.update(json.dumps([list(part.images.shape), part.targets]).encode())
            for chunk in part.images.split(1024):
                content.update(chunk.contiguous().numpy())
        return content.hexdigest()

    def readable(self) -> ImagesInMemory:
        """This data set: images that cannot be read were left out when it was made."""
        return self

    def hold_out(self, fraction: float) -> ImagesInMemory:
        """This data set with held-out training images in place of the test images.

        They are chosen as :func:`benchmarks.images.validation.held_out` says, of each class.

        Raises:
            ValueError: ``fraction`` is not between 0 and 1.
        """
        chosen = held_out(self.train.targets, fraction)
        train, test = (self.train.where([out is wanted for out in chosen]) for wanted in (False, True))
        return replace(self, train=train, test=test, validation=fraction)

    def prepare(self, inputs: InputSpec, augment: Augment, **_: Any) -> PreparedImages:
        """The images and their transforms: images are resized as a whole, since there is nothing to crop away.

        What is not random is done once, here, so that an epoch reads finished tensors; or tensors that are resized and
        not normalised yet, which take a quarter of the memory; up to 1.5 GiB of them.
        """
        fixed = eval_transform(inputs, crop=False)
        numbers = (len(self.train) + len(self.test)) * 3 * inputs.size**2
        if augment == "paper" or numbers > _PREPARED_BYTES:
            return PreparedImages(self.train, self.test, train_transform(inputs, augment), fixed)
        flip = [random_flip()] if augment == "flip" else []
        if 4 * numbers > _PREPARED_BYTES:
            train, test = (_prepared(data, resize(inputs)) for data in (self.train, self.test))
            return PreparedImages(train, test, normalize(inputs, *flip), normalize(inputs))
        train, test = (_prepared(data, fixed) for data in (self.train, self.test))
        return PreparedImages(train, test, flip[0] if flip else None, None)


def _prepared(data: LabelledImages, transform: v2.Transform) -> LabelledImages:
    first = transform(data.images[:1])
    images = first.new_empty(len(data), *first.shape[1:])  # filled in place: two copies would not fit
    for part, chunk in zip(images.split(256), data.images.split(256)):
        part.copy_(transform(chunk))
    return LabelledImages(images, data.targets)
