"""PRoLoRA: chunks of a factor are rolled copies of one chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.relatives.relative import RelativePlugin


def tied(factor: Tensor, chunks: int, unshared: int) -> Tensor:
    """The factor whose chunks are the first one, rolled by ``i max((r - u) // chunks, 1)`` ranks in chunk ``i``.

    Args:
        factor: ``(r, d)``; its first ``unshared`` rows are left as they are.
        chunks: Equal parts of the ``d`` columns.
        unshared: ``u``.

    Returns:
        ``(r, d)``.
    """
    shared = factor[unshared:]
    first = shared[:, : factor.shape[1] // chunks]
    rolled = [first.roll(i * _stride(len(shared), chunks), 0) for i in range(chunks)]
    return torch.cat([factor[:unshared], torch.cat(rolled, 1)])


def tied_gradient(gradient: Tensor, chunks: int, unshared: int) -> Tensor:
    """The gradient of the one chunk, in the place of every chunk: an optimizer then moves all of them alike.

    Args:
        gradient: Of the whole factor, ``(r, d)``.
        chunks: As in :func:`tied`.
        unshared: As in :func:`tied`.

    Returns:
        ``(r, d)``.
    """
    shared = gradient[unshared:]
    stride = _stride(len(shared), chunks)
    back = [part.roll(-i * stride, 0) for i, part in enumerate(shared.chunk(chunks, 1))]
    return tied(torch.cat([gradient[:unshared], torch.stack(back).sum(0).repeat(1, chunks)]), chunks, unshared)


class PRoLoRAPlugin(RelativePlugin):
    """PRoLoRA (Wang et al., ACL 2024, arXiv 2402.16902): the chunks of a factor are rolled copies of one.

    ``A`` is divided along its inputs, ``B`` along its outputs. Chunk ``i`` is the first one rolled along the rank by
    ``i`` strides of ``max(r // chunks, 1)``, with ``r`` the shared ranks; ``unshared`` ranks have no copies. A whole
    ``A`` starts from the bound of a whole row, which the paper calls rectified initialisation. Nearly ``chunks`` times
    fewer numbers train. The bank and files hold the copies, too, at the size of any direction.

    Args:
        chunks: In which both factors are divided, of which every size must be a multiple. The paper chooses it for
            each budget; 2 here.
        unshared: Ranks without copies, chosen here: 1, as in the paper's figure.

    Raises:
        ValueError: An argument is out of range; or, when training begins, does not suit a layer.
    """

    def __init__(self, chunks: int = 2, unshared: int = 1) -> None:
        super().__init__()
        if type(chunks) is not int or chunks < 1:
            raise ValueError(f"chunks={chunks!r}: expected a whole number of at least 1")
        if type(unshared) is not int or unshared < 0:
            raise ValueError(f"unshared={unshared!r}: expected a whole number of at least 0")
        self.chunks = chunks
        self.unshared = unshared

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes.

        Raises:
            ValueError: A layer's size is no multiple of the chunks.
        """
        super().before_training(strategy, **kwargs)
        for p in projections_of(strategy.model):
            for size in (p.A.shape[1], len(p.B)):
                if size % self.chunks:
                    raise ValueError(f"chunks={self.chunks}: a layer of size {size} cannot be divided into so many")

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Ties the chunks of directions that begin, and counts the numbers that are free."""
        super().before_training_exp(strategy, num_workers, **kwargs)
        copies = sum(
            max(len(p.A) - self.unshared, 0) * (d - d // self.chunks)
            for p in projections_of(strategy.model)
            for d in (p.A.shape[1], len(p.B))
        )
        strategy.model.trained_beside = -copies

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Ties the chunks."""
        self._tie(projections)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Makes the gradients those of the chunks."""
        for p in projections_of(strategy.model):
            if len(p.A) and p.A.grad is not None and p.B.grad is not None:
                p.A.grad = tied_gradient(p.A.grad, self.chunks, self.unshared)
                p.B.grad = tied_gradient(p.B.grad.T, self.chunks, self.unshared).T.contiguous()

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Ties the chunks again, should the optimizer not treat every element alike."""
        self._tie([p for p in projections_of(strategy.model) if len(p.A)])

    @torch.no_grad()
    def _tie(self, projections: list[Projection]) -> None:
        for p in projections:
            p.A.copy_(tied(p.A, self.chunks, self.unshared))
            p.B.copy_(tied(p.B.T, self.chunks, self.unshared).T)


def _stride(ranks: int, chunks: int) -> int:
    return max(ranks // chunks, 1)
