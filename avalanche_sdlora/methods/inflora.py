"""InfLoRA as an Avalanche plugin, on SD-LoRA's adapter."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.methods.inputs import input_moments
from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.methods.subspace import check_threshold, extend, free_rows
from avalanche_sdlora.processes import from_first


class InfLoRAPlugin(LoRAPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """InfLoRA (Liang and Li, CVPR 2024, arXiv 2404.00228): new directions that leave old inputs alone.

    Before a task, ``A`` is designed from the task's inputs of every adapted layer, outside the subspace that holds the
    inputs of earlier tasks, and never trained; ``B`` is. So the update of a layer is 0 for inputs within that subspace.
    See :func:`~avalanche_sdlora.methods.subspace.free_rows` and :func:`~avalanche_sdlora.methods.subspace.extend`.

    The inputs are those of the training images without augmentation, so that the design depends on the data alone; the
    authors' code uses one epoch with augmentation.

    Args:
        threshold: Share of a task's energy that is protected, above 0 and at most 1. It rises from this value at the
            first task linearly towards 1, as in the authors' code (0.95 for CIFAR-100, 0.98 for ImageNet-R).

    Raises:
        ValueError: ``threshold`` is out of range.
    """

    wants_every = True

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = check_threshold(threshold)
        #: For each layer, orthonormal columns ``(in, k)`` that span the protected subspace.
        self.bases: dict[str, Tensor] = {}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes, as every low-rank method, and ``A``."""
        super().before_training(strategy, **kwargs)
        for projection in projections_of(strategy.model):
            projection.A.requires_grad_(False)

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Designs ``A`` of directions that begin; one that goes on, as ``B`` shows, has learned with its own."""
        for name, moment in input_moments(strategy, num_workers).items():
            adapter = strategy.model.backbone.get_submodule(name)
            basis = self.bases.get(name, moment[:, :0])
            for projection in projections_of(adapter):
                if len(projection.A) and not projection.B.any():  # none while a run is resumed: the state comes later
                    rank = len(projection.A)
                    projection.A.copy_(from_first(lambda m=moment, b=basis, r=rank: free_rows(m, b, r)))  # type: ignore[misc]

    def after_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Protects the inputs that the task ended with."""
        tasks = len(getattr(strategy.experience, "origin_stream", None) or [None])
        done = int(strategy.model.experiences) - 1
        threshold = min(1.0, self.threshold + (1 - self.threshold) * done / tasks)
        for name, moment in input_moments(strategy, num_workers).items():
            basis = self.bases.get(name, moment[:, :0])
            self.bases[name] = from_first(lambda m=moment, b=basis: extend(b, m, threshold), moment.device)  # type: ignore[misc]
