"""Accuracy, forgetting and transfer of the stream so far, for every logger."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import phase_and_task, stream_type

from avalanche_sdlora.metrics.accuracy_matrix import AccuracyMatrix

#: The names that loggers show, by the keys of ``AccuracyMatrix.summary``.
NAMES = {
    "acc": "Mean_Acc",
    "aaa": "AAA",
    "pooled_acc": "Pooled_Acc",
    "forgetting": "Forgetting",
    "bwt": "Backward_Transfer",
}


class StreamAccuracy(PluginMetric[dict[str, float]]):
    """The summary of the accuracies so far, in percent, after each evaluation that follows a training experience.

    The row of the accuracy matrix after ``n`` training experiences is that of the test experiences ``0 .. n - 1``;
    later ones, whose classes have not been seen, do not count. An evaluation that leaves out one of them, or lies
    inside training, or comes a second time, emits nothing. Once an experience was followed by no evaluation of all, its
    row is missing, and from then on there are ``Mean_Acc`` and ``Pooled_Acc`` alone: the others need every row. The
    formulas are those of :class:`avalanche_sdlora.metrics.AccuracyMatrix`.

    Attributes:
        rows: The rows of the accuracy matrix so far, percent; None where nothing was measured.
        samples: The number of test samples by experience.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[float] | None] = []
        self.samples: list[int] = []
        self._hits: dict[int, list[int]] = {}  # right ones and all, by experience
        self._trains = False

    def reset(self) -> None:
        """Forget the stream."""
        self.rows, self.samples, self._hits = [], [], {}

    def result(self) -> dict[str, float]:
        """The summary of the stream so far; empty before the first evaluation."""
        return AccuracyMatrix.from_rows(self.rows, self.samples).summary() if self.rows else {}

    def before_training(self, strategy: Any) -> None:
        """Evaluations from now on are inside training."""
        self._trains = True

    def after_training(self, strategy: Any) -> None:
        """An evaluation from now on is one of its own."""
        self._trains = False

    def before_eval(self, strategy: Any) -> None:
        """Begin a row."""
        self._hits = {}

    def after_eval_iteration(self, strategy: Any) -> None:
        """Count the right answers of a batch."""
        right, seen = self._hits.setdefault(strategy.experience.current_experience, [0, 0])
        hits = int((strategy.mb_output.argmax(1) == strategy.mb_y).sum())
        self._hits[strategy.experience.current_experience] = [right + hits, seen + len(strategy.mb_y)]

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Close the row, and emit the summary."""
        trained = strategy.clock.train_exp_counter
        counted = [self._hits.get(i) for i in range(trained)]
        if self._trains or trained <= len(self.rows) or None in counted:
            return []
        self.rows += [None] * (trained - 1 - len(self.rows))
        self.rows.append([100 * right / seen for right, seen in filter(None, counted)])
        self.samples = [seen for _, seen in filter(None, counted)]
        x = strategy.clock.train_iterations
        return [MetricValue(self, f"{NAMES[key]}/{_where(strategy)}", value, x) for key, value in self.result().items()]

    def __str__(self) -> str:
        return "Stream_Accuracy"


def stream_metrics() -> list[PluginMetric[Any]]:
    """``Mean_Acc``, ``AAA``, ``Pooled_Acc``, ``Forgetting`` and ``Backward_Transfer`` of the stream so far, percent."""
    return [StreamAccuracy()]


def experience_accuracies(metrics: Mapping[str, Any]) -> list[float]:
    """Percent on each test experience, from the names that Avalanche gives its metrics in an evaluation."""
    found = {}
    for name, value in metrics.items():
        if match := re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/(?:Task\d+/)?Exp(\d+)", name):
            found[int(match[1])] = 100 * float(value)
    return [found[j] for j in range(len(found))]


def _where(strategy: Any) -> str:
    return f"{phase_and_task(strategy)[0]}_phase/{stream_type(strategy.experience)}_stream"
