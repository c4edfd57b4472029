"""One thread for the work on one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread until the block ends.

    A single image gains nothing from a second thread, and loses much where other programs keep the cores busy: each
    operation then waits for a thread that is not scheduled, for milliseconds instead of microseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
