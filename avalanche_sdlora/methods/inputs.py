"""Second moments of what the adapted layers are given, which several methods design their directions from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.linear import adapters_of
from avalanche_sdlora.growing import learned_dtype
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.processes import all_sum
from avalanche_sdlora.training.features import present_features


def input_moments(strategy: Any, num_workers: int = 0) -> dict[str, Tensor]:
    """Second moment ``(in, in)``, float64, of the inputs of every adapted layer, by the layer's name in the backbone.

    The inputs are those of the present experience's training images without augmentation, in all processes together.

    Args:
        strategy: Its model, device, evaluation batch size and ``adapted_dataset`` are used.
        num_workers: Loader processes.

    Raises:
        ValueError: An adapted layer is never called.
    """
    with _listening(strategy.model) as moments:
        for _ in present_features(strategy.model, strategy, strategy.adapted_dataset, num_workers):
            pass
    return moments


@contextmanager
def _listening(model: SDLoRAModel) -> Iterator[dict[str, Tensor]]:
    """Gather the inputs of the model's adapters until the block ends, then sum them over all processes.

    Raises:
        ValueError: An adapter is never called.
    """
    moments: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hook(name: str) -> Any:
        def gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2)  # (n, in)
            x = x.to(learned_dtype(x.dtype))
            with torch.autocast(x.device.type, enabled=False):
                moments[name] = moments.get(name, 0.0) + (x.T @ x).double()
            counts[name] = counts.get(name, 0) + len(x)

        return gather

    adapters = adapters_of(model.backbone)
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in adapters.items()]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
    device = next(model.parameters()).device
    totals = all_sum(torch.tensor([counts.get(name, 0) for name in adapters], device=device)).tolist()
    for (name, adapter), total in zip(adapters.items(), totals):
        if not total:
            raise ValueError(f"the model never calls {name!r} but reads its weight: no inputs to see")
        empty = torch.zeros(2 * adapter.base.weight.shape[1:], dtype=torch.float64, device=device)
        moments[name] = all_sum(moments.get(name, empty)) / total
