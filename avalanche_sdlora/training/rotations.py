"""What the first task learns beside its classes: to tell by how many quarter turns an image has been rotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.heads.growing_head import GrowingHead


class Rotations:
    """A linear classifier of the classes of a task times four rotations, which is thrown away when the task has ended.

    A task has few classes, and what tells these apart is little of what will tell later ones apart. So the images of
    its training batches are rotated, by each number of quarter turns in turn (:func:`turns`): the model's own head
    learns their classes as they are, and beside it the cross-entropy over the ``4 C`` pairs of class and rotation is
    added to the loss. It takes no pass of its own. To learn both together: Lee, Hwang and Shin, ICML 2020 (arXiv
    1910.05872); in a class-incremental stream: Zhu et al. (PASS), CVPR 2021. To predict rotations: Gidaris, Singh and
    Komodakis, ICLR 2018 (arXiv 1803.07728).

    Args:
        model: An :class:`avalanche_sdlora.SDLoRAModel`, once the experience has begun.

    Attributes:
        head: The classifier, whose row ``4 c + k`` is for row ``c`` of the model's head and ``k`` turns. Its weights
            are drawn as the model's are.
    """

    def __init__(self, model: Any) -> None:
        self.head = GrowingHead(model.head.in_features).to(model.head.weight)
        with torch.random.fork_rng(devices=[]):  # batches come in the order in which they come without it
            self.head.grow({0: range(4 * len(model.head.weight))})
        self._turns: Tensor | None = None  # (n,), of the batch on its way
        self._features: list[Tensor] = []  # of it, (n, d), as the model's head takes them
        self._loss: Tensor | None = None
        self._hook: Any = None

    def parameters(self) -> list[nn.Parameter]:
        """What trains."""
        return [self.head.weight, self.head.bias]

    def state(self) -> dict[str, Tensor]:
        """The classifier as it is, for :meth:`take_over`."""
        return {"weight": self.head.weight.detach(), "bias": self.head.bias.detach()}

    @torch.no_grad()
    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Puts the numbers of :meth:`state` in place of its own."""
        for name, parameter in (("weight", self.head.weight), ("bias", self.head.bias)):
            parameter.copy_(state[name])

    def loss(self, features: Tensor, rows: Tensor, turned: Tensor) -> Tensor:
        """The mean cross-entropy, a scalar.

        Args:
            features: ``(n, d)``, of the images as they have been rotated.
            rows: ``(n,)``, the rows of the model's head that their classes have.
            turned: ``(n,)``, by how many quarter turns.
        """
        return F.cross_entropy(self.head(features), 4 * rows + turned)

    def before_forward(self, strategy: Any) -> None:
        """Rotates the images of the strategy's present batch.

        A batch that is no longer one of square images with class labels, since a plugin has put another in its place,
        stays as it is.
        """
        self._forget()
        images, targets = strategy.mb_x, strategy.mb_y
        if targets.dim() != 1 or images.dim() != 4 or not can_rotate(images[0]):
            return
        part = getattr(strategy.dataloader, "part", None)  # of several processes, each has its own of every batch
        offset = strategy.clock.train_exp_iterations + (0 if part is None else part.start)
        self._turns = turns(len(images), offset).to(images.device)
        strategy.mbatch[0] = rotated(images, self._turns)
        self._hook = strategy.model.head.register_forward_pre_hook(lambda _, given: self._features.append(given[0]))

    def after_forward(self, strategy: Any) -> None:
        """Computes the loss, from the features that the forward pass has given to the model's head."""
        if self._turns is None:
            return
        _, targets, *labels = strategy.mbatch
        task = labels[0] if labels and strategy.model.config.use_task_labels else None
        loss = self.loss(self._features[-1], strategy.model.head.rows_of(targets, task), self._turns)
        self._forget()
        self._loss = loss

    def before_backward(self, strategy: Any) -> None:
        """Adds the gradient of the loss; what the strategy reports as its loss stays."""
        if self._loss is not None:
            loss = strategy._criterion.portion * self._loss
            strategy.loss = strategy.loss + (loss - loss.detach())
            self._loss = None

    def _forget(self) -> None:
        """Forgets the batch; a forward pass that failed may have left one."""
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._turns, self._loss = None, None, None
        self._features.clear()


def turns(images: int, offset: int) -> Tensor:
    """By how many quarter turns each image of a batch is rotated, ``(images,)``.

    Args:
        images: ``n``.
        offset: By how many the first is; each next one by one more.
    """
    return (torch.arange(images) + offset) % 4


def rotated(images: Tensor, by: Tensor) -> Tensor:
    """Square ``images (n, channels, size, size)``, each rotated ``by (n,)`` quarter turns."""
    result = images.clone()
    for k in range(1, 4):
        result[by == k] = images[by == k].rot90(k, (2, 3))
    return result


def can_rotate(sample: Any) -> bool:
    """Whether a sample is a square image, ``(channels, size, size)``."""
    return isinstance(sample, Tensor) and sample.dim() == 3 and sample.shape[1] == sample.shape[2]
