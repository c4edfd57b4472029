"""One pass over the images of an experience, to learn from their features without training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_sdlora.model import SDLoRAModel


@torch.no_grad()
def feature_batches(
    model: SDLoRAModel, strategy: Any, num_workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Features ``(n, d)``, class and task labels ``(n,)`` of the present experience's training images, in their order.

    With the evaluation transforms, in evaluation mode and without gradient. Global random generators are left as they
    are, and so is the mode of ``model`` once the pass is complete. Task labels are None where they are not used.

    Args:
        model: The model.
        strategy: Whose experience, device and evaluation batch size are used.
        num_workers: Loader processes.
    """
    data = strategy.adapted_dataset.eval()
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            loader = DataLoader(data, batch_size=strategy.eval_mb_size, num_workers=num_workers)
            for x, y, *rest in loader:
                # again for every batch: whoever takes the batches may use the model in between
                features = model.eval().features(x.to(strategy.device))
                labels = rest[0].to(strategy.device) if rest and model.config.use_task_labels else None
                yield features, y.to(strategy.device), labels
    finally:
        model.train(training)
