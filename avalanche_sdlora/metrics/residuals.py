"""How far a new direction is from what the old ones can say, while it trains."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from torch import nn

from avalanche_sdlora.adapter.linear import adapters_of, projections_of


def residuals(backbone: nn.Module) -> dict[str, float]:
    """The residual of the direction that trains on the frozen ones, by layer, as the mean over its projections.

    ``min_delta || D - sum_k delta_k D_k ||_F`` at unit norm of ``D``: 0 if the frozen directions explain it wholly, 1
    if they share nothing with it (the test of knowledge-distillation pruning in Wu et al., ICLR 2025, arXiv
    2501.13198). Layers without a frozen direction, or whose new one is still zero, are left out.
    """
    found = {}
    for name, adapter in adapters_of(backbone).items():
        values = []
        for projection in projections_of(adapter):
            frozen = int(projection.owner[: len(projection.bank_A)].max()) + 1 if len(projection.bank_A) else 0
            if frozen and len(projection.A) and bool(projection.B.detach().any()):
                values.append(projection.fit(frozen).residual)
        if values:
            found[name] = sum(values) / len(values)
    return found


class Residuals(PluginMetric[dict[str, float]]):
    """:func:`residuals` after the training iterations 1, 2, 4, 8, ... of an experience, and at its end.

    So few of them that their cost does not depend on the length of training. The scalars are called
    ``Residual/train_phase/train_stream/LAYER``, their position is the number of training iterations so far.

    Attributes:
        records: Training experience, iteration in it, layer and residual, in the order of their measurement.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[list[Any]] = []
        self._values: dict[str, float] = {}
        self._measured = 0  # iteration of the experience

    def reset(self) -> None:
        """Forget all records."""
        self.records, self._values = [], {}

    def result(self) -> dict[str, float]:
        """The last residuals by layer."""
        return dict(self._values)

    def before_training_exp(self, strategy: Any) -> None:
        """Begin an experience."""
        self._measured = 0

    def after_training_iteration(self, strategy: Any) -> list[MetricValue]:
        """Measure after 1, 2, 4, 8, ... iterations."""
        iteration = strategy.clock.train_exp_iterations + 1  # the clock, the last plugin, has not counted this one yet
        if iteration & (iteration - 1):
            return []
        return self._measure(strategy, iteration, 1)

    def after_training_epoch(self, strategy: Any) -> list[MetricValue]:
        """Measure at the end, before the direction is reduced."""
        iteration = strategy.clock.train_exp_iterations
        last = strategy.clock.train_exp_epochs + 1 >= strategy.train_epochs
        return self._measure(strategy, iteration, 0) if last and iteration > self._measured else []

    def _measure(self, strategy: Any, iteration: int, ahead: int) -> list[MetricValue]:
        self._measured = iteration
        found = residuals(strategy.model.backbone)
        if not found:
            return []
        self._values = found
        experience = strategy.clock.train_exp_counter
        self.records += [[experience, iteration, layer, value] for layer, value in found.items()]
        stem = get_metric_name("Residual", strategy, add_experience=False, add_task=False)
        x = strategy.clock.train_iterations + ahead
        return [MetricValue(self, f"{stem}/{layer}", value, x) for layer, value in found.items()]

    def __str__(self) -> str:
        return "Residual"


def residual_metrics() -> list[PluginMetric[Any]]:
    """The residual of the new direction on the old ones over the iterations, by layer; see ``Residuals``."""
    return [Residuals()]
