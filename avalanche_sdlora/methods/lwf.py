"""Learning without Forgetting on a head that grows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_sdlora import stream
from avalanche_sdlora.learned import learned_state, load_learned
from avalanche_sdlora.model import SDLoRAModel


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Divergence of softened probabilities, ``KL(softmax(taught / T) || softmax(logits / T))``, mean over samples.

    The cross-entropy of Li and Hoiem ("Learning without Forgetting", TPAMI 2018, eq. 2) up to a constant. There is no
    factor ``T^2``, as in Avalanche.

    Args:
        logits: ``(n, classes)``.
        taught: ``(n, classes)``, those of the teacher.
        temperature: ``T``.
    """
    target = torch.softmax(taught / temperature, dim=1)
    return F.kl_div(torch.log_softmax(logits / temperature, dim=1), target, reduction="batchmean")


class LwFPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Learning without Forgetting (Li and Hoiem, TPAMI 2018) beside :class:`avalanche_sdlora.SDLoRAPlugin`.

    The model as it was after the last experience teaches the present one its softened probabilities over the classes
    that it knew. Avalanche's own ``LwFPlugin`` computes this loss too but cannot be used: it asks a model that knows of
    task labels for the logits of every task, and a stream for task labels that newer streams do not have.

    The teacher shares the frozen backbone with the model.

    Args:
        alpha: Weight of the distillation.
        temperature: Temperature of the softmax; 2 in the paper.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, alpha: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha={alpha!r}: expected a number of at least 0")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r}: expected a number above 0")
        self.alpha = alpha
        self.temperature = temperature
        #: The learned tensors of the teacher, and the classes that it knows.
        self.learned: dict[str, Tensor] = {}
        self.classes: list[int] = []
        self._teacher: Callable[[Tensor], Tensor] | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Makes the teacher.

        Raises:
            ValueError: Task labels select the classes: the teacher speaks of all that it knows.
        """
        labels = set(stream.classes_by_task(strategy.experience))
        if labels != {0} and strategy.model.config.use_task_labels:
            raise ValueError(f"task labels {sorted(labels)} with LwFPlugin: set SDLoRAConfig(use_task_labels=False)")
        if self.learned:
            teacher = _copy(strategy.model)
            load_learned(teacher, self.learned)
            self._teacher = partial(_logits, teacher.eval())

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the distillation to the loss."""
        if self._teacher is not None:
            with torch.no_grad():
                taught = self._teacher(strategy.mb_x)[:, self.classes]
            logits = strategy.mb_output[:, self.classes]
            portion = strategy._criterion.portion  # of the batch, where several processes share it
            distillation = distillation_loss(logits, taught, self.temperature)
            strategy.loss = strategy.loss + self.alpha * portion * distillation

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keeps the learned tensors as the next experience's teacher."""
        self.learned = {name: t.detach().clone() for name, t in learned_state(strategy.model).items()}
        self.classes = strategy.model.head.classes()


def _logits(model: SDLoRAModel, x: Tensor) -> Tensor:
    """The logits of the head that is trained, also where another one predicts."""
    return model.head(model.features(x))


def _copy(model: SDLoRAModel) -> SDLoRAModel:
    """A copy of the model that shares the frozen backbone."""
    own = learned_state(model)
    return copy.deepcopy(model, {id(p): p for name, p in model.named_parameters() if name not in own})
