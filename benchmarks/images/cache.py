"""Image files as uint8 pixels, decoded once where a store keeps them.

Decoding a photograph takes longer than everything else that happens to it before the model. The decoded image is kept
as it is before any augmentation, so a cached epoch is as random as any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from benchmarks.images.decode import Pixels, decode_rgb, unreadable
from benchmarks.images.store import ImageStore
from benchmarks.images.threads import one_thread

_FORMAT = 1  # part of every key: another way of decoding or storing counts it up


class CachedImages(Dataset[tuple[Tensor, int]]):
    """Labelled image files, read as ``(3, H, W)`` uint8 RGB tensors and kept once decoded, up to a limit.

    An image whose shorter side is longer than ``shorter_side`` is resized to it when it is decoded, with
    antialiasing, and never enlarged. Where that is the side to which an evaluation transform resizes first, with
    this interpolation, the step finds nothing left to do and its result is equal to the bit, for files of any size. A
    random crop is cut from the reduced image, so that a small crop holds less detail than one from the file.
    ``shorter_side=None`` keeps files as they are and every crop exact, at two to several times the space. Pixels are
    equal with and without a store.

    A file that has changed is decoded again. Pixels handed out are the caller's own to change.

    Args:
        paths: The files.
        targets: A whole-number label each, as Avalanche reads them.
        shorter_side: Pixels; None: as in the file.
        interpolation: How images are reduced, as in :class:`benchmarks.InputSpec`.
        store: Keeps decoded images, also from one run to the next; an image for which it has no room is decoded every
            time.

    Attributes:
        paths: The files, as absolute paths.
        targets: Their labels.

    Raises:
        ValueError: The arguments do not fit together. Later, by indexing: a file cannot be read as an image; the
            message names it.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        targets: Sequence[int],
        *,
        shorter_side: int | None = None,
        interpolation: str = "bicubic",
        store: ImageStore | None = None,
    ) -> None:
        if len(paths) != len(targets):
            raise ValueError(f"Expected a label for each image; got {len(paths)} images and {len(targets)} labels.")
        if shorter_side is not None and shorter_side < 1:
            raise ValueError(f"shorter_side={shorter_side}: expected a number of pixels or None.")
        self.paths = [os.path.abspath(path) for path in paths]
        self.targets = [int(target) for target in targets]
        self._shorter_side = shorter_side
        self._mode = InterpolationMode(interpolation)
        self._store = store

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        if self._store is None:
            pixels = self._decode(path)
        else:
            key = self._key(path)
            found = self._store.get(key)
            pixels = self._decode(path) if found is None else found
            if found is None:
                self._store.put(key, pixels)
        # The channels stay innermost in memory, where decoders put them and resizing is fastest.
        return torch.from_numpy(pixels).permute(2, 0, 1), self.targets[index]

    def _decode(self, path: str) -> Pixels:
        pixels = decode_rgb(path)
        if self._shorter_side is None or min(pixels.shape[:2]) <= self._shorter_side:
            return pixels
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        with one_thread():
            image = v2.functional.resize(image, [self._shorter_side], self._mode, antialias=True)
            return image.permute(1, 2, 0).contiguous().numpy()

    def _key(self, path: str) -> bytes:
        try:
            status = os.stat(path)
        except OSError as error:
            raise unreadable(path, error) from error
        what = (_FORMAT, self._shorter_side, self._mode.value, status.st_size, status.st_mtime_ns, path)
        return hashlib.sha256(repr(what).encode()).digest()
