"""Plugin metrics that show the method's own quantities in Avalanche's loggers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name

from avalanche_sdlora.model import SDLoRAModel


class ModelPluginMetric(PluginMetric[dict[str, float]]):
    """Numbers that a model reports after each training experience, one scalar for each name.

    The scalars are called ``NAME/train_phase/train_stream/KEY``. Their position on the x axis is the number of
    training iterations so far, so that a logger draws one curve a key.

    Args:
        name: The common part of the scalars' names.
        report: Reads the model and gives one number for each key.
    """

    def __init__(self, name: str, report: Callable[[SDLoRAModel], dict[str, float]]) -> None:
        super().__init__()
        self._name = name
        self._report = report
        self._values: dict[str, float] = {}

    def reset(self) -> None:
        """Forget the last report."""
        self._values = {}

    def result(self) -> dict[str, float]:
        """The last report."""
        return dict(self._values)

    def before_training(self, strategy: Any) -> None:
        """Refuse a model that cannot report, before time is spent on training it."""
        self._check(strategy.model)

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        """Read the model and emit its numbers."""
        self._values = self._report(self._check(strategy.model))
        stem = get_metric_name(self, strategy, add_experience=False, add_task=False)
        iteration = strategy.clock.train_iterations
        return [MetricValue(self, f"{stem}/{key}", value, iteration) for key, value in self._values.items()]

    def _check(self, model: Any) -> SDLoRAModel:
        if not isinstance(model, SDLoRAModel):
            raise TypeError(f"the metric {self._name} reads an SDLoRAModel; the strategy's is a {type(model).__name__}")
        return model

    def __str__(self) -> str:
        return self._name


def magnitude_metrics() -> list[PluginMetric]:
    """The magnitude of each direction, ``Magnitude/.../Direction001`` and so on, averaged over the projections.

    Direction ``k`` was begun in task ``k``, unless reduction has merged directions. The curves show the rise of
    the early magnitudes in the paper's figure.
    """
    return [ModelPluginMetric("Magnitude", _magnitudes)]


def parameter_metrics() -> list[PluginMetric]:
    """``Parameters/.../trained``, ``new``, ``kept`` and ``rank``; see ``SDLoRAModel.parameter_report``."""
    return [ModelPluginMetric("Parameters", lambda model: dict(model.parameter_report()))]


def reduction_metrics() -> list[PluginMetric]:
    """Figures on the reduction of the projections.

    ``Reduction/.../residual``: mean distance of the new directions from the span of the frozen ones, from the second
    experience on. ``absorbed``: how many projections were distilled into older directions. ``error``: largest
    relative change of an update. ``parameters_saved``: in all projections.
    """
    return [ModelPluginMetric("Reduction", _reductions)]


def _magnitudes(model: SDLoRAModel) -> dict[str, float]:
    return {f"Direction{k:03d}": alpha for k, alpha in enumerate(model.magnitude_report(), start=1)}


def _reductions(model: SDLoRAModel) -> dict[str, float]:
    records = model.reductions
    residuals = [r.residual for r in records if r.residual is not None]
    values = {"residual": sum(residuals) / len(residuals)} if residuals else {}
    if records:
        values |= {
            "absorbed": sum(r.absorbed for r in records),
            "error": max(r.error for r in records),
            "parameters_saved": sum(r.parameters_saved for r in records),
        }
    return values
