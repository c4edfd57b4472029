"""Learning without Forgetting on a head that grows: Avalanche's loss, with a teacher that it can read."""

from __future__ import annotations

import copy
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.regularization import LearningWithoutForgetting
from torch import Tensor, nn

from avalanche_sdlora import stream


class LwFPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Learning without Forgetting (Li and Hoiem, TPAMI 2018) beside :class:`avalanche_sdlora.SDLoRAPlugin`.

    The model as it was after the last experience teaches the present one its softened probabilities over the classes
    that it knew. The loss is Avalanche's. Its own ``LwFPlugin`` cannot be used: it asks models that know of task labels
    for the logits of every task, and streams for task labels that newer ones do not have.

    The teacher shares the frozen backbone with the model.

    Args:
        alpha: Weight of the distillation, or one for each experience; the first is never used.
        temperature: Of the softmax; 2 in the paper.

    Raises:
        ValueError: ``temperature`` is not above 0.
    """

    def __init__(self, alpha: float | list[float] = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature!r}: expected a number above 0")
        self.lwf = LearningWithoutForgetting(alpha, temperature)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Refuses a stream whose task labels select the classes: the teacher speaks of all that it knows.

        Raises:
            ValueError: It has other task labels than 0.
        """
        labels = set(stream.classes_by_task(strategy.experience))
        if labels != {0} and strategy.model.config.use_task_labels:
            raise ValueError(f"task labels {sorted(labels)} with LwFPlugin: set SDLoRAConfig(use_task_labels=False)")

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the distillation to the loss."""
        strategy.loss = strategy.loss + self.lwf(strategy.mb_x, strategy.mb_output, strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keeps the model as the next experience's teacher, and what it knows."""
        frozen = {id(p): p for p in strategy.model.parameters() if not p.requires_grad}
        self.lwf.prev_model = _Teacher(copy.deepcopy(strategy.model, frozen))
        self.lwf.prev_classes_by_task[0].update(strategy.model.head.classes())
        self.lwf.expcount += 1


class _Teacher(nn.Module):
    """A model of which Avalanche asks for nothing but logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
