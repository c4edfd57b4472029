"""The adapted layer: a frozen ``nn.Linear`` and the low-rank updates of its rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.functional import Update, adapted_linear, adapted_weight, compute_dtype, merged_weight
from avalanche_sdlora.projection import Magnitudes, Projection


class SDLoRALinear(nn.Module):
    """A frozen ``nn.Linear`` with SD-LoRA updates on one or several blocks of its output rows.

    While gradients are recorded it multiplies by a weight built for this step; otherwise by a merged weight that is
    built once and kept until any tensor it was made from has changed.

    Args:
        base: The layer; its parameters are frozen here.
        rows: The ``(start, stop)`` of each adapted block of output rows, e.g. query and value of a fused ``qkv``.
    """

    _magnitudes: Magnitudes
    columns: list[int]

    def __init__(self, base: nn.Linear, rows: list[tuple[int, int]]) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.projections = nn.ModuleList(Projection(start, stop, base.in_features) for start, stop in rows)
        self.projections.to(base.weight.device)
        self.took_part = False
        self._merged: _Merged | None = None

    def connect(self, magnitudes: Magnitudes, columns: list[int]) -> None:
        """Says which column of the model's magnitudes belongs to each projection.

        The magnitudes stay the model's own: one parameter, listed once in ``parameters()`` and the state dict.
        """
        object.__setattr__(self, "_magnitudes", magnitudes)  # a reference, not a submodule
        self.columns = columns

    def updates(self) -> list[Update]:
        """The update of each projection at the present magnitudes; empty before the first experience."""
        alpha = self._magnitudes.values()  # (t, columns)
        if not len(alpha):
            return []
        return [p.update(alpha[:, column]) for p, column in zip(projections_of(self), self.columns)]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias ``(out,)``."""
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """The weight ``(out, in)`` in force, differentiable in magnitudes and factors.

        Some models (BEiT, EVA-02, SwinV2) never call the layer but read its weight.
        """
        self.took_part = True
        if torch.is_grad_enabled():
            return adapted_weight(self.base.weight, self.updates())
        return self.merged(self.base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        self.took_part = True
        if torch.is_grad_enabled():
            return adapted_linear(x, self.base.weight, self.base.bias, self.updates())
        return F.linear(x, self.merged(compute_dtype(x)), self.base.bias)

    def merged(self, dtype: torch.dtype) -> Tensor:
        """The weight ``(out, in)`` in force, in ``dtype`` and without gradient, kept until its sources change."""
        sources = [*self.base.parameters(), *self.projections.buffers(), *self.projections.parameters()]
        sources += [self._magnitudes.alpha, self._magnitudes.fixed]
        if self._merged is None or not self._merged.made_from(sources, dtype):
            self._merged = _Merged(sources, merged_weight(self.base.weight, self.updates()).to(dtype))
        return self._merged.weight

    def train(self, mode: bool = True) -> SDLoRALinear:
        """Also drops the merged weight when training begins, to free its memory."""
        if mode:
            self._merged = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> SDLoRALinear:
        self._merged = None  # moved or cast: values may change without a new version
        return super()._apply(*args, **kwargs)

    def extra_repr(self) -> str:
        """Shape, adapted rows, and total rank."""
        rows = ", ".join(f"[{p.start}:{p.stop}]" for p in projections_of(self))
        ranks = ", ".join(str(len(p.owner)) for p in projections_of(self))
        return f"in={self.in_features}, out={self.out_features}, rows={rows}, ranks={ranks}"


def projections_of(module: nn.Module) -> list[Projection]:
    """Every projection below ``module``, in the order of ``modules()``."""
    return [m for m in module.modules() if isinstance(m, Projection)]


class _Merged:
    """A merged weight with the tensors it was made from, and the version each then had."""

    def __init__(self, sources: list[Tensor], weight: Tensor) -> None:
        self.sources = sources  # holding the tensors keeps their identities from being reused
        self.weight = weight
        self.versions = [(t.data_ptr(), t._version) for t in sources]

    def made_from(self, sources: list[Tensor], dtype: torch.dtype) -> bool:
        return (
            self.weight.dtype == dtype
            and len(sources) == len(self.sources)
            and all(a is b for a, b in zip(sources, self.sources))
            and [(t.data_ptr(), t._version) for t in sources] == self.versions
        )
