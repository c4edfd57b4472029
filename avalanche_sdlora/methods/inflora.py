"""InfLoRA as an Avalanche plugin, on SD-LoRA's adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from avalanche_sdlora.growing import learned_dtype
from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.methods.subspace import extend, free_rows
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.processes import all_sum, from_first
from avalanche_sdlora.training.features import present_features


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
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold!r}: expected a number above 0 and at most 1")
        self.threshold = threshold
        #: For each layer, orthonormal columns ``(in, k)`` that span the protected subspace.
        self.bases: dict[str, Tensor] = {}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes, as every low-rank method, and ``A``."""
        super().before_training(strategy, **kwargs)
        for projection in projections_of(strategy.model):
            projection.A.requires_grad_(False)

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Designs ``A`` of directions that begin; one that goes on, as ``B`` shows, has learned with its own."""
        for name, moment in self._moments(strategy, num_workers).items():
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
        for name, moment in self._moments(strategy, num_workers).items():
            basis = self.bases.get(name, moment[:, :0])
            self.bases[name] = from_first(lambda m=moment, b=basis: extend(b, m, threshold), moment.device)  # type: ignore[misc]

    def _moments(self, strategy: Any, num_workers: int) -> dict[str, Tensor]:
        """Second moment ``(in, in)`` of the inputs of every adapted layer, float64."""
        with _listening(strategy.model) as moments:
            for _ in present_features(strategy.model, strategy, strategy.adapted_dataset, num_workers):
                pass
        return moments


@contextmanager
def _listening(model: SDLoRAModel) -> Iterator[dict[str, Tensor]]:
    """Gather the inputs of the model's adapters until the block ends, then sum them over all processes.

    Raises:
        ValueError: An adapter is never called.
    """
    moments: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hook(name: str) -> Any:
        def gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2)  # (n, in)
            x = x.to(learned_dtype(x.dtype))
            with torch.autocast(x.device.type, enabled=False):
                moments[name] = moments.get(name, 0.0) + (x.T @ x).double()
            counts[name] = counts.get(name, 0) + len(x)

        return gather

    adapters = {name: m for name, m in model.backbone.named_modules() if isinstance(m, SDLoRALinear)}
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in adapters.items()]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
    device = next(model.parameters()).device
    totals = all_sum(torch.tensor([counts.get(name, 0) for name in adapters], device=device)).tolist()
    for (name, adapter), total in zip(adapters.items(), totals):
        if not total:
            raise ValueError(f"InfLoRAPlugin: the model never calls {name!r} but reads its weight: no inputs to see")
        empty = torch.zeros(2 * adapter.base.weight.shape[1:], dtype=torch.float64, device=device)
        moments[name] = all_sum(moments.get(name, empty)) / total
