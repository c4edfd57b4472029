"""Where the solutions of the tasks lie: their distances, and the sizes and similarities of the directions."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from torch import Tensor, nn

from avalanche_sdlora.adapter.geometry import Geometry
from avalanche_sdlora.adapter.linear import adapters_of, projections_of


class Solutions(PluginMetric[dict[str, float]]):
    """After each training experience: how far the weights are from the pre-trained ones, and from earlier solutions.

    Distances are Frobenius norms over all adapted rows, relative to the pre-trained weights of these rows, so that
    Figure 2 of Wu et al. (ICLR 2025, arXiv 2501.13198) can be drawn of any run. All is computed from the factors
    (:mod:`avalanche_sdlora.adapter.geometry`). Emits ``Distance/.../start``, ``Distance/.../previous``, and
    ``Direction_Size/.../Direction000``, the Frobenius norm of a direction's contribution as a mean over projections.

    Attributes:
        distances: Row ``i``: from the solution after experience ``i`` to the start, and to those after experiences
            ``0 .. i - 1``; None for solutions whose directions have gone (see ``Geometry.keeps``).
        sizes: Row ``i``: the size of each direction after experience ``i``.
        solutions: The sizes ``(projections, t)`` after each experience; None where its directions have gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forget all solutions."""
        self.distances: list[list[float | None]] = []
        self.sizes: list[list[float]] = []
        self.solutions: list[Tensor | None] = []
        self._cosines: Tensor | None = None

    def result(self) -> dict[str, float]:
        """The last distances: ``start``, and ``previous`` where there is one."""
        if not self.distances:
            return {}
        start, *earlier = self.distances[-1]
        values = {"start": start, "previous": earlier[-1] if earlier else None}
        return {name: value for name, value in values.items() if value is not None}

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        """Measure and emit."""
        geometry = Geometry.of(strategy.model.backbone)
        if not len(geometry.sizes):
            return []
        if self._cosines is not None and not geometry.keeps(self._cosines):
            self.solutions = [None] * len(self.solutions)
        whole = frozen_norm(strategy.model.backbone)
        row: list[float | None] = [geometry.distance() / whole]
        row += [None if one is None else geometry.distance(one) / whole for one in self.solutions]
        self.distances.append(row)
        self.solutions.append(geometry.sizes)
        self._cosines = geometry.cosines
        sizes = geometry.sizes.abs().mean(0).tolist()
        self.sizes.append(sizes)
        values = {f"Distance/{name}": value for name, value in self.result().items()}
        values |= {f"Direction_Size/Direction{k:03d}": size for k, size in enumerate(sizes)}
        x = strategy.clock.train_iterations
        where = get_metric_name("", strategy, add_experience=False, add_task=False)
        return [
            MetricValue(self, f"{name.split('/')[0]}{where}/{name.split('/')[1]}", value, x)
            for name, value in values.items()
        ]

    def __str__(self) -> str:
        return "Solutions"


def frozen_norm(backbone: nn.Module) -> float:
    """``||W0||_F`` of the pre-trained weights over all rows that are adapted."""
    norms = [
        torch.linalg.norm(adapter.base.weight[p.start : p.stop].double())
        for adapter in adapters_of(backbone).values()
        for p in projections_of(adapter)
    ]
    return float(torch.stack([norm.cpu() for norm in norms]).norm())


def similarities(backbone: nn.Module) -> dict[str, list[list[float]]]:
    """``|cos|`` between the directions ``(t, t)`` by layer, as the mean over its projections; from 0 to 1."""
    cosines, found, i = Geometry.of(backbone).cosines.abs(), {}, 0
    for name, adapter in adapters_of(backbone).items():
        n = len(projections_of(adapter))
        found[name] = cosines[i : i + n].mean(0).tolist()
        i += n
    return found


def solution_metrics() -> list[PluginMetric[Any]]:
    """Distances of the tasks' solutions and sizes of the directions; see ``Solutions``."""
    return [Solutions()]
