"""Where the directions of a model lie to each other, and its solutions of different tasks: all through the factors.

What a projection has learned is ``W - W0 = sum_k s_k U_k`` with directions ``U_k`` of unit Frobenius norm, so that a
solution is the vector ``s``. With the Gram matrix ``G_ij = <U_i, U_j>_F`` two solutions ``s`` and ``s'`` are
``sqrt((s - s')^T G (s - s'))`` apart. A frozen direction never changes, so that an earlier solution is known by its
``s`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.factors import gram_of_directions
from avalanche_sdlora.adapter.linear import adapters_of, projections_of


@dataclass(frozen=True)
class Geometry:
    """The directions of all projections at one moment, float64 on the CPU.

    Attributes:
        sizes: ``(projections, t)``, the ``s_k`` of each direction; negative where a magnitude has changed its sign.
        cosines: ``(projections, t, t)``, the ``G`` of the directions; zero in the row of a direction of norm zero.
        norms: ``(projections, t)``, the Frobenius norm of each direction as it stands in the factors.
        frozen: Number of directions that do not train any more.
    """

    sizes: Tensor
    cosines: Tensor
    norms: Tensor
    frozen: int

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: nn.Module) -> Geometry:
        """The geometry of an adapted backbone; its projections come layer by layer, as ``adapters_of`` gives them.

        Costs ``O((out + in) R^2)`` for a projection of ``R`` columns.
        """
        found = [
            (projection, adapter.magnitudes.values()[:, column])
            for adapter in adapters_of(backbone).values()
            for projection, column in zip(projections_of(adapter), adapter.columns)
        ]
        t, frozen = len(found[0][1]) if found else 0, 0
        sizes = torch.zeros(len(found), t, dtype=torch.float64)
        cosines = torch.zeros(len(found), t, t, dtype=torch.float64)
        lengths = torch.zeros_like(sizes)
        for i, (projection, alpha) in enumerate(found):
            A = torch.cat([projection.bank_A, projection.A]).double()
            B = torch.cat([projection.bank_B, projection.B], dim=1).double()
            gram = gram_of_directions(A, B, projection.owner, t)
            norms = gram.diagonal().clamp(min=0).sqrt()
            safe = torch.where(norms > 0, norms, 1.0)
            # All columns of a direction have one coefficient.
            c = norms.new_zeros(t).index_copy_(0, projection.owner, projection.coefficients(alpha).double())
            sizes[i], cosines[i] = (c * norms).cpu(), (gram / safe / safe[:, None]).cpu()
            lengths[i] = norms.cpu()
            bank = projection.owner[: len(projection.bank_A)]
            frozen = max(frozen, 1 + int(bank.max()) if len(bank) else 0)
        return cls(sizes, cosines, lengths, frozen)

    def keeps(self, cosines: Tensor, tolerance: float = 1e-4) -> bool:
        """Whether the directions of an earlier moment are still there, so that its solution can be told in these.

        They are not where one of them went on training, or where the bank has been recompressed.

        Args:
            cosines: Those of the earlier moment, ``(projections, t', t')``.
            tolerance: What they may differ by.
        """
        t = cosines.shape[1]
        return self.frozen >= t and bool(((self.cosines[:, :t, :t] - cosines).abs() <= tolerance).all())

    def distance(self, earlier: Tensor | None = None) -> float:
        """Frobenius distance of the present weights from those of an earlier moment, over all projections.

        Args:
            earlier: The ``sizes (projections, t')`` of that moment, whose directions :meth:`keeps` has found here; None
                for the pre-trained weights.
        """
        moved = self.sizes.clone()
        if earlier is not None:
            moved[:, : earlier.shape[1]] -= earlier
        return float(torch.einsum("pi,pij,pj->", moved, self.cosines, moved).clamp(min=0).sqrt())
