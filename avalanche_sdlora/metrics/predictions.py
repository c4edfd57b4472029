"""What a model predicts in an evaluation: with the task known, and how far its probabilities can be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from numpy.typing import NDArray
from torch import Tensor

from avalanche_sdlora.metrics.calibration import Reliability, reliability


@dataclass(frozen=True)
class Predictions:
    """The predictions for one test experience, in the order of its images.

    Attributes:
        labels: Class labels ``(n,)``.
        predicted: The class predicted out of all classes seen ``(n,)``.
        confidence: Its probability ``(n,)``.
        task_known: The class predicted out of those of the experience ``(n,)``.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    task_known: NDArray[np.int64]

    def accuracy(self) -> float:
        """Percent right among all classes seen."""
        return 100 * float(np.mean(self.predicted == self.labels))

    def accuracy_with_task_known(self) -> float:
        """Percent right where only the classes of the experience compete."""
        return 100 * float(np.mean(self.task_known == self.labels))


def class_recalls(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[int, float]:
    """The share of the samples of each class that are recognised, in percent, by class label.

    Their mean is the balanced accuracy, in which a rare class counts as much as a frequent one.

    Args:
        labels: Class labels ``(n,)``.
        predicted: The classes predicted ``(n,)``.
    """
    return {int(c): 100 * float(np.mean(predicted[labels == c] == c)) for c in np.unique(labels)}


class PredictionMetrics(PluginMetric[dict[str, float]]):
    """Accuracy with the task known by experience, balanced accuracy and calibration of each whole evaluation.

    All read the logits of the evaluation as it is, so that they cost no forward pass. Where the accuracy with the
    task known stays high and the other falls, features still tell classes apart, and what was lost is the comparison
    between tasks.

    Args:
        probabilities: From logits ``(n, classes)`` to probabilities; the softmax by default. Classes that do not
            compete have the logit -1000 or less.
    """

    def __init__(self, probabilities: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self._arrays: dict[int, tuple[NDArray[Any], ...]] = {}  # plain, so that a checkpoint can keep them
        self._probabilities = probabilities or (lambda logits: logits.softmax(1))
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._values: dict[str, float] = {}

    def reset(self) -> None:
        """Forget the last evaluation."""
        self._arrays, self._batches, self._values = {}, [], {}

    @property
    def found(self) -> dict[int, Predictions]:
        """The predictions of the last evaluation by test experience."""
        return {experience: Predictions(*arrays) for experience, arrays in self._arrays.items()}

    def recalls(self) -> dict[int, float]:
        """The accuracy of each class that was evaluated, in percent, by class label."""
        found = self.found.values()
        return class_recalls(*(np.concatenate(column) for column in zip(*((f.labels, f.predicted) for f in found))))

    def reliability(self) -> Reliability:
        """Confidence and accuracy of the predictions of the last evaluation, in 15 bins.

        Raises:
            ValueError: Nothing has been evaluated.
        """
        found = self.found.values()
        confidence = np.concatenate([np.zeros(0), *(one.confidence for one in found)])
        correct = np.concatenate([np.zeros(0, dtype=bool), *(one.predicted == one.labels for one in found)])
        return reliability(torch.from_numpy(confidence), torch.from_numpy(correct))

    def result(self) -> dict[str, float]:
        """``task_known_acc``, ``balanced_acc`` (percent) and ``calibration_error`` (0 to 1) of the last evaluation."""
        return dict(self._values)

    def before_eval(self, strategy: Any) -> None:
        """Begin an evaluation."""
        self.reset()

    def before_eval_exp(self, strategy: Any) -> None:
        """Begin an experience."""
        self._batches = []

    def after_eval_iteration(self, strategy: Any) -> None:
        """Keep what is needed of a batch, on the CPU."""
        logits = strategy.mb_output.detach()
        known = [c for c in strategy.experience.classes_in_this_experience if c < logits.shape[1]]
        classes = torch.tensor(sorted(known), device=logits.device)
        chosen = classes[logits[:, classes].argmax(1)]
        self._batches.append((self._probabilities(logits.float()).cpu(), strategy.mb_y.cpu(), chosen.cpu()))

    def after_eval_exp(self, strategy: Any) -> list[MetricValue]:
        """Emit the accuracy with the task known."""
        if not self._batches:
            return []
        probabilities, labels, chosen = (torch.cat(column) for column in zip(*self._batches))
        self._batches = []
        best = probabilities.double().max(1)
        arrays = (labels.numpy(), best.indices.numpy(), best.values.numpy(), chosen.numpy())
        self._arrays[strategy.experience.current_experience] = arrays
        found = Predictions(*arrays)
        name = get_metric_name("TaskKnown_Acc_Exp", strategy, add_experience=True, add_task=False)
        return [MetricValue(self, name, found.accuracy_with_task_known(), strategy.clock.train_iterations)]

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Emit the numbers of the whole evaluation."""
        if not self._arrays:
            return []
        known = np.concatenate([one.task_known == one.labels for one in self.found.values()])
        self._values = {
            "task_known_acc": 100 * float(np.mean(known)),
            "balanced_acc": float(np.mean(list(self.recalls().values()))),
            "calibration_error": self.reliability().error(),
        }
        names = {
            "task_known_acc": "TaskKnown_Acc_Stream",
            "balanced_acc": "Balanced_Acc_Stream",
            "calibration_error": "Calibration_Error",
        }
        stems = {key: get_metric_name(name, strategy, False, False) for key, name in names.items()}
        return [
            MetricValue(self, stems[key], value, strategy.clock.train_iterations) for key, value in self._values.items()
        ]

    def __str__(self) -> str:
        return "Predictions"


def prediction_metrics(probabilities: Callable[[Tensor], Tensor] | None = None) -> list[PluginMetric[Any]]:
    """Percent: ``TaskKnown_Acc_Exp``, ``TaskKnown_Acc_Stream``, ``Balanced_Acc_Stream``; 0 to 1: ``Calibration_Error``.

    Args:
        probabilities: As for ``PredictionMetrics``.
    """
    return [PredictionMetrics(probabilities)]
