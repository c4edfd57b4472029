"""Where decoded images and features are kept: one LMDB database in a folder, of bounded size, for several processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import lmdb
import numpy as np

from benchmarks.images.decode import Pixels

_HEADER = 8  # bytes: height and width as 32-bit numbers
_SMALLEST = 2**16  # bytes of a database that holds no more than its own pages


class Store:
    """Keeps bytes by a key that changes with everything they are made from.

    LMDB writes an entry whole or not at all, also when a process is killed, and lets any number of processes read
    while one writes. Entries are not flushed to the disk one by one (ten times slower), so that a crash of the
    *machine* may damage the database; a damaged one is refused by name. The folder may be deleted whenever no run uses
    it.

    Args:
        folder: The folder of the database. It must be on a local file system, as LMDB requires.
        limit_mb: The size of the database in MiB at most. It takes no further entries when it is full. Where runs with
            different limits share a folder, the largest holds.

    Raises:
        ValueError: The limit is not above 0, or the folder cannot be used.
    """

    #: What an entry is.
    KIND: ClassVar = "entry"

    def __init__(self, folder: str | os.PathLike[str], limit_mb: float) -> None:
        if not limit_mb > 0:
            raise ValueError(f"limit_mb={limit_mb}: expected a number above 0.")
        self._folder = str(Path(folder).absolute())
        self._limit = int(limit_mb * 2**20)
        self._takes, self._gives = True, True
        try:
            self._environment()
        except (OSError, lmdb.Error) as error:
            raise ValueError(
                f"The {self.KIND} cache {self._folder} cannot be used: {error}. If it is damaged, delete the folder."
            ) from error

    def read(self, key: bytes) -> bytes | None:
        """The bytes that are kept under the key; None where there are none."""
        if not self._gives:
            return None
        try:
            with self._environment().begin() as transaction:
                return transaction.get(key)
        except lmdb.MapResizedError:  # another run has a larger limit
            self._environment().set_mapsize(0)
        except lmdb.Error as error:
            self._gives = False
            self._warn("gives", error)
        return None

    def write(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep entries by their keys, all of them or none, if there is room; those that are there already stay."""
        if not self._takes:
            return
        try:
            with self._environment().begin(write=True) as transaction:
                for key, entry in entries.items():
                    transaction.put(key, entry, overwrite=False)
        except lmdb.MapFullError:
            self._takes = False
        except lmdb.MapResizedError:
            self._environment().set_mapsize(0)
        except lmdb.Error as error:  # a disk that is full or gone makes the run slower, no more
            self._takes = False
            self._warn("takes", error)

    def _warn(self, what: str, error: Exception) -> None:
        warnings.warn(f"The {self.KIND} cache {self._folder} {what} no more {self.KIND}s: {error}.", stacklevel=3)

    def _environment(self) -> lmdb.Environment:
        environment = _environment(self._folder)
        if environment.info()["map_size"] < self._limit:
            environment.set_mapsize(self._limit)
        return environment


class ImageStore(Store):
    """Keeps decoded images."""

    KIND = "image"

    def get(self, key: bytes) -> Pixels | None:
        """A copy of the image ``(H, W, 3)``, or None."""
        entry = self.read(key)
        if entry is None:
            return None
        data = np.frombuffer(entry, np.uint8)
        height, width = data[:_HEADER].view("<u4").tolist()
        return data[_HEADER:].reshape(height, width, 3).copy()

    def put(self, key: bytes, pixels: Pixels) -> None:
        """Keep the image ``(H, W, 3)`` if there is room; one that is there already stays."""
        self.write({key: np.array(pixels.shape[:2], "<u4").tobytes() + pixels.tobytes()})


# A process may have one handle of a database, and must not use the one that it inherited when it was forked.
_open: dict[str, tuple[int, lmdb.Environment]] = {}


def _environment(folder: str) -> lmdb.Environment:
    if folder in _open:
        process, environment = _open[folder]
        if process == os.getpid():
            return environment
        environment.close()  # leaves the parent's alone
    os.makedirs(folder, exist_ok=True)
    environment = lmdb.open(folder, map_size=_SMALLEST, max_readers=1024, readahead=False, sync=False)
    environment.reader_check()  # of processes that were killed
    _open[folder] = os.getpid(), environment
    return environment
