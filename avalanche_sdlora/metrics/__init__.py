"""What a run of SD-LoRA can tell of itself, as plugin metrics for every Avalanche logger."""

from avalanche_sdlora.metrics.accuracy_matrix import AccuracyMatrix
from avalanche_sdlora.metrics.calibration import expected_calibration_error, reliability
from avalanche_sdlora.metrics.cost import cost_metrics
from avalanche_sdlora.metrics.method import magnitude_metrics, parameter_metrics, reduction_metrics
from avalanche_sdlora.metrics.predictions import prediction_metrics
from avalanche_sdlora.metrics.residuals import residual_metrics
from avalanche_sdlora.metrics.solutions import solution_metrics
from avalanche_sdlora.metrics.stream import experience_accuracies, stream_metrics

__all__ = [
    "AccuracyMatrix",
    "cost_metrics",
    "expected_calibration_error",
    "experience_accuracies",
    "magnitude_metrics",
    "parameter_metrics",
    "prediction_metrics",
    "reduction_metrics",
    "reliability",
    "residual_metrics",
    "solution_metrics",
    "stream_metrics",
]
