"""Regions of memory that processes share, and the lock that keeps them whole."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from contextlib import AbstractContextManager
from typing import Any

from avalanche_sdlora.processes import gather_objects, local_rank, place, rank, several, wait_for_all

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


def make_region(size: int) -> tuple[mmap.mmap, AbstractContextManager[Any]]:
    """``size`` bytes of memory, and a lock, for this process and the processes that it forks.

    The memory is anonymous: unlike ``/dev/shm`` it has no small limit in containers, and it is taken as it fills. The
    processes of one machine that train together get one region; all of them must ask for it. Where their system is not
    Linux, each has a region of its own.

    Raises:
        OSError: So much memory cannot be had.
    """
    if not several() or not hasattr(os, "memfd_create"):
        return mmap.mmap(-1, size), multiprocessing.Lock()
    own = os.memfd_create("images") if local_rank() == 0 else None
    if own is not None:
        os.ftruncate(own, size)
    theirs = gather_objects((place(), local_rank(), f"/proc/{os.getpid()}/fd/{own}"))
    path = next(path for there, number, path in theirs if there == theirs[rank()][0] and number == 0)
    file = os.open(path, os.O_RDWR) if own is None else own  # open to the end of the process, as the lock needs it
    region = mmap.mmap(file, size)
    wait_for_all()  # the first of a machine has its file open until the others have opened it
    return region, _FileLock(file)


class _FileLock:
    """A lock between processes, also those that were forked from one another; a process that is killed releases it."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)
