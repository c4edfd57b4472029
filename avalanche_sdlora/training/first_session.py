"""More training in the first experience, less movement after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from avalanche.core import SupervisedPlugin

from avalanche_sdlora.training.plugin import SDLoRAPlugin


class FirstSessionPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Lets the first experience be learned longer than the others, and the backbone adapt more slowly after it.

    Before the first experience nothing has been learned that could go stale, so that adapting to the new domain costs
    nothing then (first-session adaptation: Panos et al., ICCV 2023, arXiv 2303.13199, who stop there). A head in closed
    form gains most from it. Give it to the strategy beside :class:`avalanche_sdlora.SDLoRAPlugin`, after it and before
    any scheduler of the learning rate; schedulers that return to the rates an optimizer was made with (``LambdaLR``,
    warm restarts) undo ``later_rate``. A resumed run keeps both settings.

    Args:
        epochs: Epochs over the first experience, at least 1; None: as many as over the others.
        later_rate: Learning rate of all parameter groups but "head" from the second experience on, above 0; None: the
            rate of the first. A group with a smaller rate keeps it. An optimizer with a single group uses it for all
            parameters.

    Raises:
        ValueError: A number is out of range; or, when training begins, no :class:`avalanche_sdlora.SDLoRAPlugin` comes
            before it.
    """

    def __init__(self, epochs: int | None = None, later_rate: float | None = None) -> None:
        super().__init__()
        if epochs is not None and (type(epochs) is not int or epochs < 1):
            raise ValueError(f"epochs={epochs!r}: expected an integer of at least 1, or None")
        if later_rate is not None and not (type(later_rate) in (int, float) and 0 < later_rate < float("inf")):
            raise ValueError(f"later_rate={later_rate!r}: expected a number above 0, or None")
        self.epochs = epochs
        self.later_rate = later_rate
        self._restore: Callable[[], None] = _nothing  # gives the strategy its own number of epochs back

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Check that SD-LoRA's plugin, which knows the first experience, comes before this one."""
        before = strategy.plugins[: strategy.plugins.index(self)]
        if not any(isinstance(plugin, SDLoRAPlugin) for plugin in before):
            raise ValueError("plugins: expected an SDLoRAPlugin before FirstSessionPlugin, found none")

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Set the epochs and the rates of this experience, which the model has counted already."""
        self.after_training(strategy)
        first = int(strategy.model.experiences) == 1
        if first and self.epochs is not None:
            self._restore = partial(setattr, strategy, "train_epochs", strategy.train_epochs)
            strategy.train_epochs = self.epochs
        if not first and self.later_rate is not None:
            for group in strategy.optimizer.param_groups:
                if group.get("name") != "head":
                    group["lr"] = min(group["lr"], self.later_rate)

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Give the strategy its own number of epochs back."""
        self._restore()
        self._restore = _nothing


def _nothing() -> None:
    pass
