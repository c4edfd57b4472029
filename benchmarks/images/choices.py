"""The ways in which images can be prepared, by the names that a command line takes; nothing is imported for them."""

from __future__ import annotations

from typing import Literal, get_args

Augment = Literal["paper", "flip", "none"]
Cache = Literal["disk"]


def check_augment(augment: str) -> None:
    """Refuse a name that is no :data:`Augment`."""
    if augment not in get_args(Augment):
        raise ValueError(f"Unknown augmentation {augment!r}; one of {', '.join(get_args(Augment))}.")


def check_cache(cache: str | None, cache_mb: float | None) -> None:
    """Refuse a cache that cannot be.

    Raises:
        ValueError: ``cache`` is unknown, or ``cache_mb`` not above 0 or without a cache.
    """
    if cache is None and cache_mb is not None:
        raise ValueError(f"cache_mb={cache_mb} limits a cache; choose cache=disk.")
    if cache is not None and cache not in get_args(Cache):
        raise ValueError(f"cache={cache!r}: expected disk, from which the system reads as fast as from memory.")
    if cache_mb is not None and not cache_mb > 0:
        raise ValueError(f"cache_mb={cache_mb}: expected a number above 0.")
