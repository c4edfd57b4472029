"""Image files as uint8 pixels, decoded once: a bounded cache in memory or on disk.

Decoding a photograph takes longer than everything else that happens to it before the model. What is kept is the
decoded image, before any augmentation, so a cached epoch is as random as any other.
"""

from __future__ import annotations

import hashlib
import mmap
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from benchmarks.decode import decode_rgb, unreadable
from benchmarks.threads import one_thread

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

Pixels = NDArray[np.uint8]  # (H, W, 3)

_FORMAT = 1  # part of every key: another way of decoding or storing counts it up
_MIB = 2**20
_TEMPORARY = "entry.tmp"


class CachedImages(Dataset[tuple[Tensor, int]]):
    """Labelled image files, read as ``(3, H, W)`` uint8 RGB tensors and kept once decoded, up to a limit.

    An image whose shorter side is longer than ``shorter_side`` is resized to it when it is decoded, with
    antialiasing, and never enlarged. Where that is the side to which an evaluation transform resizes first, with
    the same interpolation, that step finds nothing left to do and the result is the same to the bit, whatever the
    size of the file. A random crop is another matter: it is cut from the reduced image, so a small crop holds less
    detail than one from the file. ``shorter_side=None`` keeps files as they are and everything exact, at two to
    several times the space. With or without a cache the pixels are the same.

    What does not fit any more is decoded every time: first come, first kept. A file that has changed is decoded
    again. Pixels handed out are the caller's own to change.

    In memory, one region is shared with the loader processes that are forked, so that an image which one of them
    decodes is there for all, in every epoch. A copy made by pickling, as for processes that are spawned, has no
    cache. On disk, a file an image is shared by everything that names the folder, runs at the same time too.
    It may be deleted at any time; what is left of an interrupted run is recognised.

    Args:
        paths: The files.
        targets: A whole-number label each, as Avalanche reads them.
        shorter_side: Pixels; None: as in the file.
        interpolation: How images are reduced, as in :class:`benchmarks.inputs.InputSpec`.
        memory_mb: Keep images in memory, in so many MiB at most; the memory is taken as it fills.
        cache_dir: Keep images in this folder instead (POSIX systems only).
        disk_mb: So many MiB there at most, counting everything that the folder holds.

    Attributes:
        paths: The files, as absolute paths.
        targets: Their labels.

    Raises:
        ValueError: The arguments do not fit together, or the cache cannot be had. Later, by indexing: a file cannot
            be read as an image; the message names it.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        targets: Sequence[int],
        *,
        shorter_side: int | None = None,
        interpolation: str = "bicubic",
        memory_mb: float | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        disk_mb: float | None = None,
    ) -> None:
        if len(paths) != len(targets):
            raise ValueError(f"Expected a label for each image; got {len(paths)} images and {len(targets)} labels.")
        if shorter_side is not None and shorter_side < 1:
            raise ValueError(f"shorter_side={shorter_side}: expected a number of pixels or None.")
        self.paths = [os.path.abspath(path) for path in paths]
        self.targets = [int(target) for target in targets]
        self._shorter_side = shorter_side
        self._mode = InterpolationMode(interpolation)
        self._store = _store(len(paths), memory_mb, cache_dir, disk_mb)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        if self._store is None:
            pixels = self._decode(path)
        else:
            key = self._key(path)
            found = self._store.get(index, key)
            pixels = self._decode(path) if found is None else found
            if found is None:
                self._store.put(index, key, pixels)
        # The channels stay innermost in memory, where decoders put them and resizing is fastest.
        return torch.from_numpy(pixels).permute(2, 0, 1), self.targets[index]

    def _decode(self, path: str) -> Pixels:
        with one_thread():
            image = decode_rgb(path)
            if self._shorter_side is not None and min(image.shape[1:]) > self._shorter_side:
                image = v2.functional.resize(image, [self._shorter_side], self._mode, antialias=True)
            return image.permute(1, 2, 0).contiguous().numpy()

    def _key(self, path: str) -> bytes:
        try:
            status = os.stat(path)
        except OSError as error:
            raise unreadable(path, error) from error
        what = (_FORMAT, self._shorter_side, self._mode.value, status.st_size, status.st_mtime_ns, path)
        return hashlib.sha256(repr(what).encode()).digest()


class _Store(Protocol):
    def get(self, index: int, key: bytes) -> Pixels | None: ...

    def put(self, index: int, key: bytes, pixels: Pixels) -> None: ...


def _store(
    n_images: int, memory_mb: float | None, cache_dir: str | os.PathLike[str] | None, disk_mb: float | None
) -> _Store | None:
    if (cache_dir is None) != (disk_mb is None):
        raise ValueError(f"cache_dir={cache_dir!r} and disk_mb={disk_mb} go together.")
    if memory_mb is not None and cache_dir is not None:
        raise ValueError("memory_mb and cache_dir exclude each other; leave one of them out.")
    for name, limit in (("memory_mb", memory_mb), ("disk_mb", disk_mb)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}={limit}: expected a number above 0.")
    if memory_mb is not None:
        return _MemoryStore(n_images, int(memory_mb * _MIB))
    if cache_dir is not None and disk_mb is not None:
        return _DiskStore(Path(cache_dir), int(disk_mb * _MIB))
    return None


class _MemoryStore:
    """Images one behind the other in a region shared with forked processes, and where each of them lies.

    The region is anonymous memory: unlike ``/dev/shm`` it has no small limit in containers.
    """

    def __init__(self, n_images: int, limit: int) -> None:
        try:
            self._pixels = np.frombuffer(mmap.mmap(-1, max(1, limit)), np.uint8)
        except (OSError, OverflowError, ValueError) as error:
            raise ValueError(f"memory_mb={limit / _MIB:g}: so much cannot be had ({error}).") from error
        table = np.frombuffer(mmap.mmap(-1, 32 * (n_images + 1)), np.int64).reshape(-1, 4)
        self._used, self._index = table[0, :1], table[1:]  # rows: key, offset, height (0: not there yet), width
        self._lock = multiprocessing.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # see the class above: a pickled copy has no cache

    def get(self, index: int, key: bytes) -> Pixels | None:
        with self._lock:
            found, offset, height, width = self._index[index].tolist()
        if found != _short(key) or not height:
            return None
        return self._pixels[offset : offset + 3 * height * width].reshape(height, width, 3).copy()

    def put(self, index: int, key: bytes, pixels: Pixels) -> None:
        with self._lock:
            offset = int(self._used[0])
            end = offset + pixels.size
            if self._index[index, 0] == _short(key) or end > len(self._pixels):
                return  # another process is at it, or the memory is full
            self._used[0] = end
            self._index[index] = _short(key), offset, 0, 0
        self._pixels[offset:end] = pixels.reshape(-1)
        with self._lock:  # readers find the whole image or none
            self._index[index] = _short(key), offset, *pixels.shape[:2]


def _short(key: bytes) -> int:
    return int.from_bytes(key[:8], "little", signed=True)


class _DiskStore:
    """A file an image: height and width as 32-bit numbers, then the pixels.

    Whoever writes holds the lock of the folder's ledger, which holds the number of bytes in use, and writes to a
    temporary name first. A kill releases the lock; it leaves a temporary file at most, and a ledger that counts
    too much rather than too little. The next store that is opened puts both right.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        if fcntl is None:
            raise ValueError(f"cache_dir={str(folder)!r}: a cache on disk needs the file locks of a POSIX system.")
        self._folder = folder.absolute()
        self._limit = limit
        self._stopped = False
        try:
            with self._locked() as ledger:
                (self._folder / _TEMPORARY).unlink(missing_ok=True)
                used = sum(_size(entry) for entry in self._folder.glob("??/*.rgb"))
                os.pwrite(ledger, used.to_bytes(8, "little"), 0)
        except OSError as error:
            raise ValueError(f"cache_dir={str(folder)!r} cannot be used: {error}.") from error

    def get(self, index: int, key: bytes) -> Pixels | None:
        path = self._path(key)
        try:
            data = np.fromfile(path, np.uint8)
        except OSError:
            return None
        height, width = data[:8].view("<u4").tolist() if len(data) >= 8 else (0, 0)
        if not height or len(data) != 8 + 3 * height * width:
            path.unlink(missing_ok=True)  # cut short by a crash of the machine or a full disk
            return None
        return data[8:].reshape(height, width, 3)

    def put(self, index: int, key: bytes, pixels: Pixels) -> None:
        if self._stopped:
            return
        path, data = self._path(key), np.array(pixels.shape[:2], "<u4").tobytes() + pixels.tobytes()
        try:
            with self._locked() as ledger:
                used = int.from_bytes(os.pread(ledger, 8, 0), "little") + len(data)
                if path.exists():
                    return
                self._stopped = used > self._limit
                if self._stopped:
                    return
                os.pwrite(ledger, used.to_bytes(8, "little"), 0)
                path.parent.mkdir(exist_ok=True)
                temporary = self._folder / _TEMPORARY  # one name is enough for one writer at a time
                try:
                    temporary.write_bytes(data)
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
        except OSError as error:  # a disk that is full or gone makes the run slower, no more
            self._stopped = True
            warnings.warn(f"The cache {self._folder} takes no more images: {error}.", stacklevel=2)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Opened anew each time, since processes that inherit an open file share its lock.
        ledger = os.open(self._folder / "ledger", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            yield ledger
        finally:
            os.close(ledger)

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self._folder / name[:2] / f"{name[2:]}.rgb"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # deleted just now
        return 0
