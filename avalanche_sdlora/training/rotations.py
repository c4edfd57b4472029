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

    A task has few classes, and what tells these apart is little of what will tell later ones apart. So each training
    batch is seen a second time, the image at position ``i`` of step ``s``, both counted from 0, rotated by
    ``(i + s) mod 4`` quarter turns, and the cross-entropy over the ``4 C`` pairs of class and rotation is added to the
    loss. To learn both together: Lee, Hwang and Shin, ICML 2020 (arXiv 1910.05872); in a class-incremental stream: Zhu
    et al. (PASS), CVPR 2021. To predict rotations: Gidaris, Singh and Komodakis, ICLR 2018 (arXiv 1803.07728).

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

    def loss(self, model: Any, images: Tensor, rows: Tensor, offset: int) -> Tensor:
        """The mean cross-entropy, a scalar.

        Args:
            model: The model.
            images: ``(n, channels, size, size)``.
            rows: ``(n,)``, the rows of the model's head that their classes have.
            offset: By how many quarter turns the first image is rotated; each next one by one more.
        """
        turns = (torch.arange(len(images), device=images.device) + offset) % 4
        rotated = torch.empty_like(images)
        for k in range(4):
            same = slice((k - offset) % 4, None, 4)
            rotated[same] = images[same].rot90(k, (2, 3))
        return F.cross_entropy(self.head(model.features(rotated)), 4 * rows + turns)

    def backward(self, strategy: Any) -> None:
        """Adds the gradient of the loss of the strategy's present batch; what the strategy reports as its loss stays.

        A batch that is no longer one of square images with class labels, since a plugin has put another in its place,
        has none.
        """
        images, targets, model = strategy.mb_x, strategy.mb_y, strategy.model
        if targets.dim() != 1 or images.dim() != 4 or not can_rotate(images[0]):
            return
        _, _, *labels = strategy.mbatch
        task = labels[0] if labels and model.config.use_task_labels else None
        part = getattr(strategy.dataloader, "part", None)  # of several processes, each has its own of every batch
        offset = strategy.clock.train_exp_iterations + (0 if part is None else part.start)
        loss = self.loss(model, images, model.head.rows_of(targets, task), offset)
        (strategy._criterion.portion * loss).backward()


def can_rotate(sample: Any) -> bool:
    """Whether a sample is a square image, ``(channels, size, size)``."""
    return isinstance(sample, Tensor) and sample.dim() == 3 and sample.shape[1] == sample.shape[2]
