"""The adapted layer: a frozen ``nn.Linear``, its bank of frozen directions and the direction that trains."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.functional import (
    Update,
    adapted_linear,
    adapted_weight,
    compute_dtype,
    factors_norm,
    merged_weight,
    product_norm,
)
from avalanche_sdlora.growing import GrowingModule


class Magnitudes(GrowingModule):
    """The magnitudes ``alpha (t, columns)`` of the ``t`` directions begun so far, the last one's included.

    One column in all when they are shared, else one column per projection.
    """

    GROWING: ClassVar = {"alpha": (0,)}

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(0, columns))

    def __len__(self) -> int:
        return len(self.alpha)

    @torch.no_grad()
    def begin(self, config: SDLoRAConfig) -> tuple[Tensor, Tensor]:
        """Adds the magnitude of a new direction; returns the old parameter and the one that replaces it."""
        old = self.alpha
        kept = old.clone()
        if config.boundary == "continuous" and len(kept):
            kept[-1] = 1.0  # what was learned went into the scale of the frozen direction
        if config.reset_magnitudes:
            kept.fill_(config.magnitude_init)
        return self.replace("alpha", torch.cat([kept, old.new_full((1, old.shape[1]), config.magnitude_init)]))


class Projection(GrowingModule):
    """The low-rank update of the rows ``[start, stop)`` of a frozen weight.

    The coefficient of a low-rank column is the magnitude of the direction that owns it times the column's scale:
    ``c = alpha[owner] * scale``. Frozen directions lie in ``bank_A (R, in)`` and ``bank_B (out, R)``; the
    direction that trains is ``A (r, in)``, ``B (out, r)``, unnormalised, with scale 1.
    """

    GROWING: ClassVar = {
        "A": (0,),
        "B": (1,),
        "bank_A": (0,),
        "bank_B": (1,),
        "owner": (0,),
        "scale": (0,),
    }

    bank_A: Tensor
    bank_B: Tensor
    owner: Tensor
    scale: Tensor

    def __init__(self, start: int, stop: int, in_features: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.A = nn.Parameter(torch.empty(0, in_features))
        self.B = nn.Parameter(torch.empty(stop - start, 0))
        self.register_buffer("bank_A", torch.empty(0, in_features))
        self.register_buffer("bank_B", torch.empty(stop - start, 0))
        self.register_buffer("owner", torch.empty(0, dtype=torch.long))  # (R + r,)
        self.register_buffer("scale", torch.empty(0))  # (R + r,)

    @torch.no_grad()
    def begin(self, rank: int, direction: int) -> None:
        """Opens the direction number ``direction`` (from 0): ``A`` Kaiming-uniform (a = sqrt 5), ``B`` zero.

        The numbers are drawn on the CPU, so that a seed means the same on every device.
        """
        A = torch.empty(rank, self.A.shape[1])
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        self.replace("A", A.to(self.A.dtype))
        self.replace("B", self.B.new_zeros(len(self.B), rank))
        self.replace("owner", torch.cat([self.owner, self.owner.new_full((rank,), direction)]))
        self.replace("scale", torch.cat([self.scale, self.scale.new_ones(rank)]))

    @torch.no_grad()
    def freeze(self, alpha: Tensor, config: SDLoRAConfig) -> None:
        """Moves the trained direction into the bank, normalised (``D_k = B_k A_k / norm``).

        Args:
            alpha: Its trained magnitude, a scalar.
            config: ``norm`` and ``boundary`` decide the divisor and the scale that stays with the direction.
        """
        r = len(self.A)
        norm = (product_norm if config.norm == "product" else factors_norm)(self.A, self.B)
        # A task that taught nothing (B = 0) leaves a zero direction behind, never 0/0.
        unit = torch.where(norm > 0, self.B.double() / norm, 0.0).to(self.B.dtype)
        if config.boundary == "continuous":
            self.scale[len(self.scale) - r :] = (alpha.double() * norm).to(self.scale.dtype)
        self.replace("bank_A", torch.cat([self.bank_A, self.A]))
        self.replace("bank_B", torch.cat([self.bank_B, unit], dim=1))
        self.replace("A", self.A[:0])
        self.replace("B", self.B[:, :0])

    def update(self, alpha: Tensor) -> Update:
        """The update at the magnitudes ``alpha (t,)``."""
        c = alpha.index_select(0, self.owner) * self.scale  # (R + r,)
        return Update(self.start, self.stop, c, self.bank_A, self.bank_B, self.A, self.B)


class SDLoRALinear(nn.Module):
    """A frozen ``nn.Linear`` with SD-LoRA updates on one or several blocks of its output rows.

    While gradients are recorded it multiplies by a weight built for this step; otherwise by a merged weight that is
    built once and kept until any tensor it was made from has changed.

    Args:
        base: The layer; its parameters are frozen here.
        rows: The ``(start, stop)`` of each adapted block of output rows, e.g. query and value of a fused ``qkv``.
    """

    _magnitudes: Magnitudes
    _columns: list[int]

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
        self._columns = columns

    def updates(self) -> list[Update]:
        """The update of each projection at the present magnitudes; empty before the first experience."""
        alpha = self._magnitudes.alpha  # (t, columns)
        if not len(alpha):
            return []
        return [p.update(alpha[:, column]) for p, column in zip(projections_of(self), self._columns)]

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
        sources = [self._magnitudes.alpha, *self.base.parameters(), *self.projections.buffers()]
        sources += self.projections.parameters()
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
