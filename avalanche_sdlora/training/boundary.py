"""What an experience asks of the model before it begins: a task, heads of its own, inputs that the model takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora import stream
from avalanche_sdlora.model import SDLoRAModel

logger = logging.getLogger("avalanche_sdlora")


class WarnOnce:
    """Logs each kind of warning once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, kind: str, message: str) -> None:
        """Logs ``message``, unless one of this ``kind`` has been logged."""
        if kind not in self._given:
            self._given.add(kind)
            logger.warning(message)


def next_task(
    how: str, before: stream.Task | None, told: bool, experience: Any, classes: Mapping[int, set[int]]
) -> tuple[stream.Task, bool]:
    """The task that an experience belongs to, and whether it is the one learned last.

    Args:
        how: ``SDLoRAConfig.new_task``.
        before: The task learned last; None before the first.
        told: Whether the user has told the plugin to begin a new task.
        experience: The experience that begins.
        classes: Its class labels by task label.
    """
    goes_on = before is not None and (how == "manual" or (how == "auto" and before.goes_on_with(experience)))
    goes_on = goes_on and not told
    return stream.Task(experience, classes, before, goes_on), goes_on


def needs_several_heads(model: SDLoRAModel, experience: Any, classes: Mapping[int, set[int]], warn: WarnOnce) -> bool:
    """Whether every task gets head rows of its own, as the config says, or as the class labels of the stream show."""
    config, head = model.config, model.head
    if config.multi_head != "auto":
        return config.multi_head
    found = head.multi_head or (
        config.use_task_labels and stream.labels_restart(experience, classes, head.classes_by_task())
    )
    if found and not head.multi_head:
        warn(
            "heads",
            "class labels come again under other task labels: every task gets its own head rows; "
            "predictions need the task label (multi_head='auto'). For equal classes say multi_head=False",
        )
    return found


def warn_of_single_class(head: str, experience: Any, classes: Mapping[int, set[int]], warn: WarnOnce) -> None:
    """Warns of an experience of one class, from which the linear head learns nothing."""
    if head == "linear" and sum(map(len, classes.values())) == 1:
        warn(
            "single",
            f"experience {stream.name(experience)} has one class, and the loss of the linear head over "
            "one class is always 0: it teaches nothing. A head in closed form learns from such experiences "
            "(SDLoRAConfig(head='lda', drift='linear')), or replay beside the present class",
        )


def sample_of(strategy: Any) -> Any:
    """The first sample of the experience, as an evaluation sees it; random generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        return strategy.adapted_dataset.eval()[0][0]


def check_inputs(strategy: Any) -> None:
    """Sends one sample through the model, so that a misfit is an error before anything has changed.

    Raises:
        ValueError: The images of the experience are no tensors, or the model cannot take them.
    """
    where = f"experience {stream.name(strategy.experience)}"
    sample = sample_of(strategy)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if not isinstance(sample, Tensor):
            raise ValueError(
                f"the images of {where} are of type {type(sample).__name__}; expected tensors (3, height, width). "
                "Give the data set a transform that makes them, for instance torchvision's ToTensor"
            )
        training = strategy.model.training
        try:
            strategy.model.eval().readings(sample.unsqueeze(0).to(strategy.device))
        except Exception as error:
            raise ValueError(
                f"the model cannot take inputs of shape {tuple(sample.shape)} from {where}: {error}"
            ) from error
        finally:
            strategy.model.train(training)
