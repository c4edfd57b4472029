"""Modules whose tensors grow with the stream, and take the size of the tensors that are loaded into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def learned_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of tensors learned on top of a layer of ``dtype``: float32, or wider where the layer is."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32


class GrowingModule(nn.Module):
    """A module with tensors that have one growing dimension.

    Subclasses list them in ``GROWING`` (name -> growing dimensions). Loading a state dict resizes them first, so that a
    strict load into a fresh module restores any stage of a stream; a mismatch in another dimension stays an error.

    Its tensors were learned in steps that a narrow type would round away: ``.half()`` and ``.to(torch.bfloat16)`` leave
    them in float32.
    """

    GROWING: ClassVar[dict[str, tuple[int, ...]]] = {}

    def replace(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """Puts ``value`` in place of the parameter or buffer ``name``; returns the old tensor and the new one."""
        old = getattr(self, name)
        # Contiguous as after loading: products of equal numbers in another layout may differ in the last bit.
        value = value.detach().to(old.device).contiguous()
        if isinstance(old, nn.Parameter):
            value = nn.Parameter(value, requires_grad=old.requires_grad)
        setattr(self, name, value)
        return old, value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def applied(t: Tensor) -> Tensor:
            new = fn(t)
            narrow = new.is_floating_point() and learned_dtype(new.dtype) != new.dtype
            return t.to(new.device, torch.float32) if narrow else new

        return super()._apply(applied, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, growing in self.GROWING.items():
            new, old = state_dict.get(prefix + name), getattr(self, name)
            if new is None or new.shape == old.shape or new.dim() != old.dim():
                continue
            if all(a == b for d, (a, b) in enumerate(zip(new.shape, old.shape)) if d not in growing):
                self.replace(name, torch.empty(new.shape, dtype=old.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)
