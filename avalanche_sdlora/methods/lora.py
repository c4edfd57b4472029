"""Plain LoRA as an Avalanche plugin, and LoRA with a penalty, which methods derive from.

Each plugin of this package stands after :class:`avalanche_sdlora.SDLoRAPlugin` in a strategy's list, which goes on
opening and freezing directions and growing the head; SD-LoRA's own idea, magnitudes that train, is switched off::

    strategy = SDLoRAStrategy(model=vit, config=SDLoRAConfig(rank=10), plugins=[OLoRAPlugin(0.5)])
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.model import SDLoRAModel


class LoRAPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Plain LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): directions are added up, no magnitude trains.

    With ``SDLoRAConfig(directions="single")`` all tasks train one direction on and on (sequential LoRA); otherwise each
    has its own, and earlier ones stay as they are. ``magnitude_init`` is the factor that LoRA calls ``alpha / r``.
    """

    #: Whether the method means nothing without a direction of its own for every task.
    wants_every: ClassVar[bool] = False

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Lets the magnitudes stay where they are.

        Raises:
            ValueError: The model is not adapted, its boundary would change the function learned so far, or its tasks
                share a direction where the method needs one for each.
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


class PenaltyPlugin(LoRAPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Adds ``weight * sum over projections of penalty`` to the loss; subclasses define the penalty.

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
