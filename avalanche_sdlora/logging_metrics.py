"""Plugin metrics that show the method's own quantities in Avalanche's loggers."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name


class MagnitudePluginMetric(PluginMetric[list[float]]):
    """The magnitude of every direction begun so far, after each training experience.

    Emits one scalar a direction, named ``Magnitude/train_phase/train_stream/Direction000`` and so on:
    direction ``k`` was begun in experience ``k``. The position on the x axis is the number of training
    iterations so far, so a logger draws one curve a direction: the rise of the early magnitudes in the
    paper's figure.

    The strategy's model must have a method ``magnitude_report() -> list[float]``, one number a direction
    (averaged over the adapted projections).
    """

    def __init__(self) -> None:
        super().__init__()
        self._magnitudes: list[float] = []

    def reset(self) -> None:
        """Forget the last report."""
        self._magnitudes = []

    def result(self) -> list[float]:
        """The magnitudes of the last report, oldest direction first."""
        return list(self._magnitudes)

    def before_training(self, strategy: Any) -> None:
        """Refuse a model that cannot report, before time is spent on training it."""
        self._report_of(strategy.model)

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        """Read the model and emit its magnitudes."""
        self._magnitudes = [float(magnitude) for magnitude in self._report_of(strategy.model)()]
        stem = get_metric_name(self, strategy, add_experience=False, add_task=False)
        iteration = strategy.clock.train_iterations
        return [
            MetricValue(self, f"{stem}/Direction{k:03d}", magnitude, iteration)
            for k, magnitude in enumerate(self._magnitudes)
        ]

    @staticmethod
    def _report_of(model: Any) -> Any:
        report = getattr(model, "magnitude_report", None)
        if not callable(report):
            raise TypeError(
                f"magnitude_metrics() needs a model with a method magnitude_report() -> list[float], as the "
                f"SD-LoRA model has; the strategy's model is a {type(model).__name__}."
            )
        return report

    def __str__(self) -> str:
        return "Magnitude"


def magnitude_metrics() -> list[PluginMetric]:
    """Plugin metrics with the magnitude of each direction, to be given to an ``EvaluationPlugin``."""
    return [MagnitudePluginMetric()]
