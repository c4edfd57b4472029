"""Where the time of a strategy goes, read from a clock at Avalanche's callbacks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from avalanche.core import SupervisedPlugin

#: The part of a step that has just run when a callback is due; "the rest" has run before any other callback.
ENDED = {
    "before_training_iteration": "loading",
    "before_eval_iteration": "loading",
    "after_forward": "forward",
    "after_eval_forward": "forward",
    "before_backward": "loss",
    "after_eval_iteration": "loss",
    "after_backward": "backward",
    "after_update": "optimizer",
}
CALLBACKS = sorted(name for name in dir(SupervisedPlugin) if name.startswith(("before_", "after_")))


class Clock:
    """Wall-clock seconds by phase and part; every moment counts once.

    Args:
        synchronize: Called before the clock is read, so that the work of a device counts for the part that asked for
            it.

    Attributes:
        seconds: Seconds by phase and part.
        phases: The phases that are open, the innermost last.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.phases = ["around"]
        self._synchronize = synchronize
        self._last = time.perf_counter()

    def book(self, part: str) -> None:
        """Count the time since the last booking for a part of the present phase."""
        if self._synchronize is not None:
            self._synchronize()
        now = time.perf_counter()
        self.seconds[self.phases[-1], part] += now - self._last
        self._last = now


class Mark(SupervisedPlugin):
    """A place in the list of a strategy's plugins at which time is booked, at every callback.

    Args:
        clock: The clock.
        part: The part that has run when this place is reached; None for the first place, which :data:`ENDED` tells.
    """

    def __init__(self, clock: Clock, part: str | None) -> None:
        super().__init__()
        self.clock, self.part = clock, part

    def called(self, callback: str) -> None:
        """Book the time, and open or close a phase."""
        self.clock.book(self.part or ENDED.get(callback, "the rest"))
        if self.part is None and callback in ("before_training", "before_eval"):
            self.clock.phases.append("training" if callback == "before_training" else "evaluation")


def _callback(name: str) -> Callable[..., None]:
    def call(self: Mark, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.called(name)

    return call


for _name in CALLBACKS:
    setattr(Mark, _name, _callback(_name))


class LastMark(Mark):
    """The place behind all plugins and metrics."""

    def called(self, callback: str) -> None:
        """Book the time, and close the phase that the callback ends."""
        super().called(callback)
        if callback in ("after_training", "after_eval"):
            self.clock.phases.pop()


def watch(strategy: Any, clock: Clock) -> None:
    """Book the time of a strategy from now on.

    What happens before its training begins is the phase "baseline", in which only the backbone's forward pass is a part
    of its own.

    Args:
        strategy: An Avalanche strategy whose model has a ``backbone``.
        clock: Counts the time.
    """
    plugins, evaluator = strategy.plugins, strategy.evaluator
    plugins.insert(plugins.index(evaluator), Mark(clock, "plugins"))
    plugins.insert(0, Mark(clock, None))
    plugins.insert(plugins.index(evaluator) + 1, LastMark(clock, "metrics and loggers"))

    def booked(part: str) -> Callable[..., None]:
        def hook(*args: Any) -> None:
            if clock.phases[-1] == "baseline":
                clock.book(part)

        return hook

    strategy.model.backbone.register_forward_pre_hook(booked("the rest"))
    strategy.model.backbone.register_forward_hook(booked("forward"))
    clock.book("the rest")
    clock.phases[-1] = "baseline"
