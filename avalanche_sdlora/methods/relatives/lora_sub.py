"""LoRA-Sub: updates in the space that the features of past tasks hardly use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.inputs import input_moments
from avalanche_sdlora.methods.relatives.relative import RelativePlugin
from avalanche_sdlora.methods.subspace import check_threshold
from avalanche_sdlora.model import SDLoRAModel


def resistant_space(moment: Tensor, threshold: float) -> Tensor:
    """The eigenvectors ``(d, k)`` of least eigenvalues, outside the fewest that hold a share of their sum.

    Args:
        moment: Second moment ``(d, d)`` of a layer's inputs.
        threshold: The share, above 0 and at most 1.
    """
    values, vectors = torch.linalg.eigh(moment.double())  # ascending
    held = values.clamp(min=0).flip(0).cumsum(0)
    leading = int((held < threshold * held[-1] * (1 - 1e-12)).sum()) + 1
    return vectors[:, : len(values) - leading].contiguous()


@contextmanager
def subtracted(model: SDLoRAModel) -> Iterator[None]:
    """Within it the adapted weights are ``W0 - sum_k B_k A_k`` in place of ``W0 + sum_k B_k A_k``, for frozen ``k``."""
    kept = [(p, p.scale.clone(), p.offset.clone()) for p in projections_of(model)]
    try:
        for p, _, _ in kept:
            R = len(p.bank_A)
            p.scale[:R] *= -1
            p.offset[:R] *= -1
        yield
    finally:
        for p, scale, offset in kept:
            p.scale.copy_(scale)
            p.offset.copy_(offset)


class LoRASubPlugin(RelativePlugin):
    """LoRA-Sub (Liu and Chang, CVPR 2025, arXiv 2503.18985): drift-resistant space by subtracting earlier updates.

    Before a task, its images pass through the model from whose weights the earlier updates are subtracted
    (:func:`subtracted`). The space of their inputs at each layer that carries little of them (:func:`resistant_space`)
    is where the task may learn: gradients of ``A`` are projected onto it. ``A`` starts within it, too, and is projected
    after each step, so that the whole update is in the space whatever the optimizer does; that is chosen here. So is
    the rule for the space: a summary of the paper's equations was read. Its triplet loss is left out.

    Args:
        threshold: Share of the energy that is kept out of the space, above 0 and at most 1; chosen here.

    Raises:
        ValueError: ``threshold`` is out of range; or, when a task begins, an adapted layer is never called.
    """

    def __init__(self, threshold: float = 0.9) -> None:
        super().__init__()
        self.threshold = check_threshold(threshold)
        #: For each adapted layer orthonormal columns ``(in, k)`` that span the space; empty for the first task.
        self.spaces: dict[str, Tensor] = {}

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Finds the space of each layer; the first task has nothing to subtract and may learn everywhere."""
        self.spaces = {}
        if any(len(p.bank_A) for p in projections):
            with subtracted(strategy.model):
                moments = input_moments(strategy, num_workers)
            self.spaces = {name: resistant_space(moment, self.threshold) for name, moment in moments.items()}
        self._project(strategy)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Projects the gradients of ``A``."""
        for p, space in self._pairs(strategy):
            if p.A.grad is not None:
                p.A.grad.copy_(_onto(p.A.grad, space))

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Projects ``A``, since steps of adaptive optimizers leave the space."""
        self._project(strategy)

    @torch.no_grad()
    def _project(self, strategy: Any) -> None:
        for p, space in self._pairs(strategy):
            p.A.copy_(_onto(p.A, space))

    def _pairs(self, strategy: Any) -> Iterator[tuple[Projection, Tensor]]:
        for name, adapter in adapters_of(strategy.model.backbone).items():
            if name in self.spaces:
                yield from ((p, self.spaces[name].to(p.A.device)) for p in projections_of(adapter))


def _onto(rows: Tensor, space: Tensor) -> Tensor:
    return ((rows.double() @ space) @ space.T).to(rows.dtype)
