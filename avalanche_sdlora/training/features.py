"""Passes over images that gather their features without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.processes import several, share, size


@torch.no_grad()
def feature_batches(
    features: Callable[[Tensor], Tensor], data: Any, *, batch_size: int, device: torch.device, num_workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Features ``(n, d)``, class and task labels ``(n,)`` of the images of ``data``, in their order.

    Images pass through the evaluation transforms, and no gradient is recorded. Global random generators are left alone.

    Args:
        features: Maps images ``(n, 3, size, size)`` to features.
        data: An Avalanche data set. Task labels are None where its samples have none.
        batch_size: Images at once.
        device: Where to compute.
        num_workers: Loader processes.
    """
    with torch.random.fork_rng(devices=[]):
        for x, y, *rest in DataLoader(data.eval(), batch_size=batch_size, num_workers=num_workers):
            yield features(x.to(device)), y.to(device), rest[0].to(device) if rest else None


def own_part(data: Any) -> Any:
    """The part of an Avalanche data set that this process passes over; all of it in a program of one process.

    The parts of all processes, in the order of their ranks, are the data set: no image is left out or comes twice.
    Where there are fewer images than processes, some parts are empty.
    """
    return data.subset(list(share(len(data)))) if several() else data


def present_features(
    model: SDLoRAModel, strategy: Any, data: Any, num_workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """:func:`feature_batches` of ``data``, as a head in closed form reads them, in evaluation mode.

    Each of several processes gets those of its own part (:func:`own_part`); what is summed up from them must then be
    summed over the processes.

    The mode of ``model`` is restored once the pass is complete. Task labels are None where they are not used.

    Args:
        model: The model.
        strategy: Its device and evaluation batch size (of all processes together) are used.
        data: The present experience's training images, an Avalanche data set.
        num_workers: Loader processes.
    """
    training = model.training
    data = own_part(data)
    if not len(data):
        return
    try:
        batches = feature_batches(
            lambda x: model.eval().readings(x),  # for every batch: its taker may use the model in between
            data,
            batch_size=-(-strategy.eval_mb_size // size()),
            device=strategy.device,
            num_workers=num_workers,
        )
        for features, y, labels in batches:
            yield features, y, labels if model.config.use_task_labels else None
    finally:
        model.train(training)
