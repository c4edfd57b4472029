"""More training in the first experience, less movement after it."""

from __future__ import annotations

from typing import Any

from avalanche.core import SupervisedPlugin


class FirstSessionPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Lets the first experience be learned longer than the others, and the backbone adapt more slowly after it.

    Before the first experience nothing has been learned that could go stale, so that adapting to the new domain costs
    nothing then (first-session adaptation: Panos et al., ICCV 2023, arXiv 2303.13199, who stop there). A head in closed
    form gains most from it. Give it to the strategy beside :class:`avalanche_sdlora.SDLoRAPlugin`, after it and before
    any scheduler of the learning rate. It keeps nothing that the strategy does not: a resumed run goes on the same.

    Args:
        epochs: Epochs over the first experience, at least 1; None: as over the others.
        later_rate: Learning rate of all parameter groups but "head" from the second experience on, above 0; None: that
            of the first. An optimizer with a single group has it for everything.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, epochs: int | None = None, later_rate: float | None = None) -> None:
        super().__init__()
        if epochs is not None and (type(epochs) is not int or epochs < 1):
            raise ValueError(f"epochs={epochs!r}: expected an integer of at least 1, or None")
        if later_rate is not None and not later_rate > 0:
            raise ValueError(f"later_rate={later_rate!r}: expected a number above 0, or None")
        self.epochs = epochs
        self.later_rate = later_rate
        self._usual: int | None = None  # the strategy's own number of epochs

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Says what holds for this experience; the model counts it already."""
        if self._usual is None:
            self._usual = strategy.train_epochs
        first = int(strategy.model.experiences) == 1
        strategy.train_epochs = self.epochs if first and self.epochs else self._usual
        if not first and self.later_rate is not None:
            for group in strategy.optimizer.param_groups:
                if group.get("name") != "head":
                    group["lr"] = self.later_rate
