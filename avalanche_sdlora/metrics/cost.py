"""What training costs: images a second, peak memory, and where the time goes."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name

#: The phase that has just ended when a callback comes.
_ENDED = {
    "before_training_iteration": "loading",
    "before_backward": "forward",
    "after_backward": "backward",
    "after_update": "update",
}


class Costs(PluginMetric[dict[str, float]]):
    """After each training experience: images a second, peak memory, and the share of each phase of the time.

    Phases are ``loading`` images, ``forward`` (the loss included), ``backward``, ``update``, ``evaluation`` since the
    experience before, and the ``rest``: heads in closed form, metrics, loggers, checkpoints. Time is the wall clock's,
    read where the host is: on a GPU the work that was only asked for counts for the phase in which the host waits.
    Memory is the largest so far, evaluations included: that of the device on CUDA, and the process's resident memory
    elsewhere.

    Emits ``Images_per_Second``, ``Peak_Memory_MB`` and ``Time_Share/.../PHASE``, shares from 0 to 1.

    Attributes:
        seconds: Seconds by phase since the beginning; a run that was resumed goes on counting.
        rates: Images a second by experience, over its iterations alone.
        peaks: The largest memory in MB by its kind, ``process`` and, where training is there, ``cuda``; a run that was
            resumed has the largest of its programs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        phases = (*_ENDED.values(), "evaluation", "rest")
        self.seconds = dict.fromkeys(phases, 0.0)
        self.rates: list[float] = []
        self.peaks: dict[str, float] = {}
        self._before = dict(self.seconds)
        self._last: float | None = None
        self._images = 0

    def result(self) -> dict[str, float]:
        """``images_per_second`` of the last experience and ``peak_memory_mb`` so far."""
        return {"images_per_second": self.rates[-1], "peak_memory_mb": self._peak()} if self.rates else {}

    def before_training(self, strategy: Any) -> None:
        """Begin to count; the time between two calls of ``train`` is no phase of training."""
        self._last = time.perf_counter()

    def before_training_exp(self, strategy: Any) -> None:
        """Begin an experience."""
        self._images = 0
        self._book("rest")

    def before_training_iteration(self, strategy: Any) -> None:
        """A batch has been loaded."""
        self._book("loading")

    def before_backward(self, strategy: Any) -> None:
        """The loss has been computed."""
        self._book("forward")

    def after_backward(self, strategy: Any) -> None:
        """Gradients have been computed."""
        self._book("backward")

    def after_update(self, strategy: Any) -> None:
        """The optimizer has made its step."""
        self._book("update")
        self._images += len(strategy.mb_y)

    def before_eval(self, strategy: Any) -> None:
        """An evaluation begins."""
        if self._last is not None:
            self._book("rest")
        self._last = time.perf_counter()

    def after_eval(self, strategy: Any) -> None:
        """An evaluation has ended."""
        self._book("evaluation")
        self._look(strategy)

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        """Emit what the experience has cost."""
        self._book("rest")
        spent = {phase: self.seconds[phase] - self._before[phase] for phase in self.seconds}
        self._before = dict(self.seconds)
        iterating = sum(spent[phase] for phase in _ENDED.values())
        self.rates.append(self._images / iterating if iterating else 0.0)
        self._look(strategy)
        x, total = strategy.clock.train_iterations, sum(spent.values()) or 1.0
        stem = {n: get_metric_name(n, strategy, False, False) for n in ("Images_per_Second", "Peak_Memory_MB")}
        shares = get_metric_name("Time_Share", strategy, False, False)
        return [
            MetricValue(self, stem["Images_per_Second"], self.rates[-1], x),
            MetricValue(self, stem["Peak_Memory_MB"], self._peak(), x),
            *(MetricValue(self, f"{shares}/{phase}", seconds / total, x) for phase, seconds in spent.items()),
        ]

    def after_training(self, strategy: Any) -> None:
        """What comes until the next evaluation or training is not counted."""
        self._last = None

    def _look(self, strategy: Any) -> None:
        for kind, peak in peak_memory(strategy.device).items():
            self.peaks[kind] = max(self.peaks.get(kind, 0.0), peak / 1e6)

    def _peak(self) -> float:
        """The one that matters: of the device on CUDA."""
        return self.peaks.get("cuda", self.peaks["process"])

    def _book(self, phase: str) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds[phase] += now - self._last
        self._last = now

    def __str__(self) -> str:
        return "Costs"


def peak_memory(device: torch.device | str) -> dict[str, int]:
    """The largest memory so far in bytes: resident in this ``process``, and allocated on a ``cuda`` device."""
    device = torch.device(device)
    allocated = {"cuda": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
    return {"process": _peak_resident(), **allocated}


def _peak_resident() -> int:
    """The largest resident memory of this process in bytes so far; 0 if unknown.

    Linux keeps it for the program (``VmHWM``); ``ru_maxrss`` may be that of the larger program which started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
        return 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def cost_metrics() -> list[PluginMetric[Any]]:
    """``Images_per_Second``, ``Peak_Memory_MB`` and ``Time_Share``; see ``Costs``."""
    return [Costs()]
