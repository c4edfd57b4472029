"""Low-rank methods beside SD-LoRA as Avalanche plugins, on the same adapter, head and optimizer.

Each stands after :class:`avalanche_sdlora.SDLoRAPlugin` in a strategy's list, which goes on opening and freezing
directions and growing the head; SD-LoRA's own idea, magnitudes that train, is switched off::

    strategy = SDLoRAStrategy(model=vit, config=SDLoRAConfig(rank=10), plugins=[OLoRAPlugin(0.5)])
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_sdlora.adapter import projections_of
from avalanche_sdlora.methods.penalties import magnitude_of_update, overlap, random_subspace, subspace_energy
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.projection import Projection


class LoRAPlugin(SupervisedPlugin, supports_distributed=False):  # type: ignore[call-arg]
    """Plain LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): directions are added up, no magnitude trains.

    With ``SDLoRAConfig(directions="single")`` all tasks train one direction on and on (sequential LoRA); otherwise each
    has its own, and earlier ones stay as they are. ``magnitude_init`` is the factor that LoRA calls ``alpha / r``.
    """

    #: Whether the method means nothing without a direction of its own for every task.
    wants_every: ClassVar[bool] = False

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Lets the magnitudes stay where they are.

        Raises:
            ValueError: The model is not adapted, its boundary would change what was learned, or its tasks share a
                direction where the method needs one for each.
        """
        model = strategy.model
        if not isinstance(model, SDLoRAModel):
            raise ValueError(f"plugins: SDLoRAPlugin must stand before {type(self).__name__}")
        if model.config.boundary != "continuous":
            raise ValueError(
                f"boundary={model.config.boundary!r} with {type(self).__name__}: the update that was learned would be "
                "normalised, and no magnitude would make up for it; use boundary='continuous'"
            )
        if self.wants_every and model.config.directions != "every":
            raise ValueError(
                f"directions={model.config.directions!r} with {type(self).__name__}: every task needs a direction of "
                "its own; use directions='every'"
            )
        model.magnitudes.alpha.requires_grad_(False)


class PenaltyPlugin(LoRAPlugin):
    """Adds ``weight * sum over projections of penalty`` to the loss; a method says what the penalty is.

    Args:
        weight: Its ``lambda``, of at least 0.

    Raises:
        ValueError: ``weight`` is out of range.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight!r}: expected a number of at least 0")
        self.weight = weight

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """The penalty of one projection, the model's ``index``-th."""
        raise NotImplementedError

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the penalty to the loss, in the precision of the parameters."""
        projections = [(i, p) for i, p in enumerate(projections_of(strategy.model)) if len(p.A)]
        for i, projection in projections:
            strategy.loss = strategy.loss + self.weight * self.penalty(projection, i)


class OLoRAPlugin(PenaltyPlugin):
    """O-LoRA (Wang et al., EMNLP Findings 2023, arXiv 2310.14152): new directions orthogonal to past ones.

    The penalty is :func:`avalanche_sdlora.methods.penalties.overlap`. The second term of the authors' code (the norms
    of the new factors) is left out: its weight is 0 in their scripts.

    Args:
        weight: ``lambda_1``; 0.5 in the authors' scripts.
    """

    wants_every = True  # with one for all there is nothing to be orthogonal to

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__(weight)

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """Overlap of the new rows with all past ones."""
        return overlap(projection.A, projection.bank_A)


class NLoRAPlugin(PenaltyPlugin):
    """N-LoRA (Yang et al., COLING 2025, arXiv 2410.10179): sparse updates, which seldom collide with earlier ones.

    See :func:`avalanche_sdlora.methods.penalties.magnitude_of_update` for the penalty.

    Args:
        weight: ``lambda``. The sum grows with the layers' sizes, and so must it shrink.
    """

    def __init__(self, weight: float = 1e-4) -> None:
        super().__init__(weight)

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """Sum of the absolute elements of the new update."""
        return magnitude_of_update(projection.A, projection.B)


class CLoRAPlugin(PenaltyPlugin):
    """CLoRA (Lu et al., ACL 2025, arXiv 2410.16801): updates that keep out of fixed subspaces.

    The penalty is :func:`avalanche_sdlora.methods.penalties.subspace_energy`. The subspaces are random, drawn once for
    the whole stream, as in the authors' code; the paper gives their dimension, a half here, as a setting to be chosen.

    Args:
        weight: ``lambda``; 1 in the authors' code.
        share: Dimension of the subspaces as a share of the layer's sizes, above 0 and below 1.
        seed: Draws the subspaces.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(self, weight: float = 1.0, share: float = 0.5, seed: int = 0) -> None:
        super().__init__(weight)
        if not 0 < share < 1:
            raise ValueError(f"share={share!r}: expected a number above 0 and below 1")
        self.share = share
        self.seed = seed
        self._subspaces: dict[int, Tensor] = {}

    def penalty(self, projection: Projection, index: int) -> Tensor:
        """Energy of the factors in the subspaces."""
        A, B = projection.A, projection.B
        return subspace_energy(A, B, self._subspace(2 * index, A.T), self._subspace(2 * index + 1, B))

    def _subspace(self, number: int, factor: Tensor) -> Tensor:
        if number not in self._subspaces:
            dimensions = max(1, round(self.share * len(factor)))
            self._subspaces[number] = random_subspace(len(factor), dimensions, 100_003 * self.seed + number).to(factor)
        return self._subspaces[number]
