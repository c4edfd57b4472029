"""What the low-rank relatives share: directions that begin, columns that train, and how far a task has come."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.model import SDLoRAModel


class RelativePlugin(LoRAPlugin):
    """A method whose tasks each learn a direction in its own way; :class:`avalanche_sdlora.LoRAPlugin` adds them up.

    A subclass says with :meth:`begin` how a direction starts; one that goes on, as its ``B`` shows, is left as it is.
    """

    wants_every = True
    #: Settings that must be None, since the method's steps or its scales are not what they assume.
    without: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self._epochs = 1  # over the present experience

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes.

        Raises:
            ValueError: The model or one of its settings does not suit the method.
        """
        super().before_training(strategy, **kwargs)
        for name in self.without:
            if (value := getattr(strategy.model.config, name)) is not None:
                raise ValueError(f"{name}={value!r} with {type(self).__name__}: expected None")

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Prepares the directions that begin."""
        self._epochs = strategy.train_epochs
        present = [p for p in projections_of(strategy.model) if len(p.A)]
        if present and not any(p.B.any() for p in present):
            with torch.no_grad():
                self.begin(strategy, present, num_workers)

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Prepares the directions of ``projections``, all of whose ``B`` are 0.

        Args:
            strategy: The strategy, its model and optimizer ready for the task.
            projections: Those that have columns.
            num_workers: Loader processes, for a pass over the task's images.
        """

    def steps(self, strategy: Any) -> tuple[int, int]:
        """How many optimizer steps of the present experience are made, and how many it is planned to have."""
        per_epoch = len(strategy.dataloader) if hasattr(strategy.dataloader, "__len__") else 1
        return int(strategy.clock.train_exp_iterations), max(1, per_epoch * self._epochs)


class HookedPlugin(RelativePlugin):
    """A method that sees, or changes, what the adapted layers compute while its hooks are on them."""

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[Any] = []

    def hook_layers(self, model: SDLoRAModel, hook: Callable[[str], Any], before: bool = False) -> None:
        """Puts a forward hook on every adapted layer, in place of the hooks that are on them.

        Args:
            model: The adapted model.
            hook: Gives the hook of a layer from the layer's name in the backbone.
            before: The hook runs before the layer, and sees its inputs alone.
        """
        self.unhook_layers()
        for name, adapter in adapters_of(model.backbone).items():
            register = adapter.register_forward_pre_hook if before else adapter.register_forward_hook
            self._handles.append(register(hook(name)))

    def unhook_layers(self) -> None:
        """Takes the hooks off the layers again, if any are on them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


class ColumnsPlugin(RelativePlugin):
    """A method that trains some columns of a direction at a time, in turns of equally many steps.

    A column is a row of ``A`` with a column of ``B``. The others rest, whatever momentum or weight decay the optimizer
    has for them; a column whose turn comes starts with a fresh optimizer state.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turn = -1
        self._resting: list[tuple[Projection, Tensor, Tensor, Tensor]] = []

    @abstractmethod
    def turns(self, model: SDLoRAModel) -> int:
        """The number of turns of a task."""

    @abstractmethod
    def active(self, projection: Projection, index: int, turn: int, turns: int) -> Tensor:
        """Which columns ``(r,)`` of the model's ``index``-th projection train in turn number ``turn`` of ``turns``."""

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Takes the gradient away from columns that rest, and remembers where they are."""
        made, planned = self.steps(strategy)
        turns = self.turns(strategy.model)
        turn = min(turns - 1, made * turns // planned)
        if made == 0 or turn != self._turn:
            self._turn = turn
            for p in projections_of(strategy.model):
                for factor in (p.A, p.B):
                    strategy.optimizer.state.pop(factor, None)
        self._resting = []
        for i, p in enumerate(projections_of(strategy.model)):
            if len(p.A):
                active = self.active(p, i, turn, turns)
                for factor, moves in ((p.A, active[:, None]), (p.B, active)):
                    if factor.grad is not None:
                        factor.grad *= moves
                self._resting.append((p, active, p.A.detach().clone(), p.B.detach().clone()))

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the columns that rest back."""
        for p, active, A, B in self._resting:
            p.A.copy_(torch.where(active[:, None], p.A, A))
            p.B.copy_(torch.where(active, p.B, B))
        self._resting = []


def rate_of(strategy: Any, parameter: Tensor) -> float:
    """The learning rate with which the strategy's optimizer trains a parameter."""
    for group in strategy.optimizer.param_groups:
        if any(p is parameter for p in group["params"]):
            return float(group["lr"])
    raise ValueError("the optimizer does not hold the parameter")
