"""The processes that torchrun has started, as far as they are known before torch is imported."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def several() -> bool:
    """Whether torchrun has started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> bool:
    """Joins the other processes, if there are any; returns whether this is the first, which speaks."""
    if not several():
        return True
    from avalanche_sdlora import processes

    processes.start()
    return processes.is_first()


def of_first(value: T) -> T:
    """The value of the first process."""
    if not several():
        return value
    from avalanche_sdlora import processes

    return processes.first_object(value)


def last_words(error: BaseException) -> None:
    """Tells the other processes, if there are any, by which error this one ends."""
    if several():
        from avalanche_sdlora import processes

        processes.last_words(error)
