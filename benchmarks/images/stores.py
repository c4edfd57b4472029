"""Where decoded images are kept: a region of memory or a folder, each with a limit, each safe for several processes."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.images.decode import Pixels

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_MIB = 2**20
_TEMPORARY = "entry.tmp"


class Store(Protocol):
    """Keeps images by their place in a data set and a key that changes with everything they are made from."""

    def get(self, index: int, key: bytes) -> Pixels | None:
        """A copy of the image, or None."""

    def put(self, index: int, key: bytes, pixels: Pixels) -> None:
        """Keep the image if there is room."""


def make_store(
    n_images: int, memory_mb: float | None, cache_dir: str | os.PathLike[str] | None, disk_mb: float | None
) -> Store | None:
    """The store of :class:`benchmarks.images.cache.CachedImages`, from its arguments of the same names."""
    if (cache_dir is None) != (disk_mb is None):
        raise ValueError(f"cache_dir={cache_dir!r} and disk_mb={disk_mb} go together.")
    if memory_mb is not None and cache_dir is not None:
        raise ValueError("memory_mb and cache_dir exclude each other; leave one of them out.")
    for name, limit in (("memory_mb", memory_mb), ("disk_mb", disk_mb)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}={limit}: expected a number above 0.")
    if memory_mb is not None:
        return MemoryStore(n_images, int(memory_mb * _MIB))
    if cache_dir is not None and disk_mb is not None:
        return DiskStore(Path(cache_dir), int(disk_mb * _MIB))
    return None


class MemoryStore:
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
        return type(None), ()  # a pickled copy has no cache, since it could not share this one

    def get(self, index: int, key: bytes) -> Pixels | None:
        """See :class:`Store`."""
        with self._lock:
            found, offset, height, width = self._index[index].tolist()
        if found != _short(key) or not height:
            return None
        return self._pixels[offset : offset + 3 * height * width].reshape(height, width, 3).copy()

    def put(self, index: int, key: bytes, pixels: Pixels) -> None:
        """See :class:`Store`."""
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


class DiskStore:
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
        """See :class:`Store`; ``index`` does not matter."""
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
        """See :class:`Store`; ``index`` does not matter."""
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
