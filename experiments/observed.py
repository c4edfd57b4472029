"""What a run sees of itself for its figures, beyond the accuracies: metrics for the loggers, and their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from avalanche.evaluation import PluginMetric
from PIL import Image
from torch import Tensor

from avalanche_sdlora.files import replacing
from avalanche_sdlora.metrics.cost import Costs
from avalanche_sdlora.metrics.predictions import PredictionMetrics, Predictions
from avalanche_sdlora.metrics.residuals import Residuals
from avalanche_sdlora.metrics.solutions import Solutions, similarities
from avalanche_sdlora.metrics.stream import stream_metrics
from benchmarks import InputSpec

MOST_WRONG = 12


class Observer:
    """The metrics of a run, and what is kept of them.

    Args:
        one_by_one: Whether experiences are learned one by one, so that a stream has a summary after each.
    """

    def __init__(self, *, one_by_one: bool = True) -> None:
        self.predictions = PredictionMetrics()
        self.residuals, self.solutions, self.costs = Residuals(), Solutions(), Costs()
        own: list[PluginMetric[Any]] = [self.predictions, self.residuals, self.solutions, self.costs]
        self.metrics = [*(stream_metrics() if one_by_one else []), *own]

    def report(self) -> dict[str, Any]:
        """What the evaluation after an experience found."""
        found = self.predictions.found
        bins = self.predictions.reliability()
        return {
            "task_known": [found[j].accuracy_with_task_known() for j in sorted(found)],
            **{key: self.predictions.result()[key] for key in ("calibration_error", "balanced_acc")},
            "class_accuracy": self.predictions.recalls(),
            "calibration_error_by_chance": bins.by_chance(),
            "reliability": {key: t.tolist() for key, t in bins._asdict().items()},
        }

    def results(self, strategy: Any, reports: Sequence[Mapping[str, Any]], before: int) -> dict[str, Any]:
        """The records of the whole run, as ``results.json`` has them under ``observed``.

        Args:
            strategy: At the end of the stream.
            reports: One for each experience, with what :meth:`report` gave under ``observed``, or None there.
            before: Number of moments at which nothing was measured, before the first report.
        """
        solutions, measured = self.solutions, [report["observed"] for report in reports]
        return {
            "task_known": [*([None] * before), *(found["task_known"] if found else None for found in measured)],
            "calibration_error": [found["calibration_error"] if found else None for found in measured],
            "calibration_error_by_chance": measured[-1].get("calibration_error_by_chance"),
            "reliability": _rounded(measured[-1]["reliability"]),
            "confusion": confusion(self.predictions.found),
            "direction_sizes": _rounded(solutions.sizes),
            "distances": _rounded(solutions.distances),
            "similarities": _rounded(similarities(strategy.model.backbone)) if solutions.sizes else {},
            "residuals": _rounded(self.residuals.records),
            "seconds_by_phase": _rounded(self.costs.seconds),
            "images_per_second": _rounded(self.costs.rates),
            "peak_memory_mb": {kind: round(peak) for kind, peak in self.costs.peaks.items()},
        }

    def save_most_wrong(self, folder: Path, stream: Sequence[Any], inputs: InputSpec) -> list[dict[str, Any]]:
        """Save the images whose wrong class was the most probable, as PNG.

        Args:
            folder: Where the images go.
            stream: The test stream.
            inputs: How images were prepared, which is undone.

        Returns:
            A record for each: ``file`` (its name), ``true`` and ``predicted`` labels, ``confidence``, ``task`` from 1.
        """
        ranked = [
            (confidence, j, i)
            for j, found in self.predictions.found.items()
            for i, confidence in enumerate(found.confidence.tolist())
            if found.predicted[i] != found.labels[i]
        ]
        records = []
        for n, (confidence, j, i) in enumerate(sorted(ranked, reverse=True)[:MOST_WRONG]):
            found, name = self.predictions.found[j], f"most_wrong_{n:02}.png"
            with replacing(folder / name) as path:
                _picture(stream[j].dataset.eval()[i][0], inputs).save(path, format="PNG")
            true, predicted = int(found.labels[i]), int(found.predicted[i])
            records.append(
                {"file": name, "true": true, "predicted": predicted, "confidence": confidence, "task": j + 1}
            )
        return records


def confusion(found: Mapping[int, Predictions]) -> list[list[int]]:
    """Experience, true label, predicted label and number of test images, where there are any."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for j, one in found.items():
        counts.update((j, t, p) for t, p in zip(one.labels.tolist(), one.predicted.tolist()))
    return [[*key, count] for key, count in sorted(counts.items())]


def _picture(image: Tensor, inputs: InputSpec, largest: int = 64) -> Image.Image:
    """An image ``(3, h, w)`` as it was before normalisation, at most 64 pixels wide."""
    pixels = image.numpy().transpose(1, 2, 0) * np.array(inputs.std) + np.array(inputs.mean)
    picture = Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))
    picture.thumbnail((largest, largest))
    return picture


def _rounded(value: Any) -> Any:
    """Five significant digits, which a figure does not show more of, and which keep reports small."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
