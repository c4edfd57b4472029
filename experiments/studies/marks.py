"""A clock that says where time went, and a loader that is timed with it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class SpanClock:
    """Wall-clock seconds by phase and part; every moment counts once, for the innermost part that is open.

    Args:
        synchronize: Called before the clock is read, so that a device's work counts for the part that asked for it.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._synchronize = synchronize
        self._open = [("around", "the rest")]
        self._last = time.perf_counter()

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Time what runs inside as ``phase``, and what no part in it claims as its rest."""
        with self._span(phase, "the rest"):
            yield

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        """Time what runs inside as ``part`` of the phase that is open."""
        with self._span(self._open[-1][0], part):
            yield

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with :meth:`part` around it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return function(*args, **kwargs)

        return call

    @contextmanager
    def _span(self, *span: str) -> Iterator[None]:
        self.read()
        self._open.append((span[0], span[1]))
        try:
            yield
        finally:
            self.read()
            self._open.pop()

    def read(self) -> None:
        """Book the time since the last reading."""
        if self._synchronize is not None:
            self._synchronize()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._last
        self._last = now


class TimedLoader:
    """A loader whose batches are timed as they are waited for."""

    def __init__(self, loader: Any, clock: SpanClock) -> None:
        self._loader = loader
        self._clock = clock

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        with self._clock.part("loading"):
            batches = iter(self._loader)
            batch = next(batches, None)
        while batch is not None:
            yield batch
            with self._clock.part("loading"):
                batch = next(batches, None)
