"""The adapted layer: a frozen ``nn.Linear`` and the low-rank updates of its rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.adapter.calls import take_part
from avalanche_sdlora.adapter.functional import (
    Update,
    adapted_linear,
    adapted_weight,
    compute_dtype,
    merged_weight,
)
from avalanche_sdlora.adapter.projection import Magnitudes, Projection
from avalanche_sdlora.growing import learned_dtype


class SDLoRALinear(nn.Module):
    """A frozen ``nn.Linear`` with SD-LoRA updates on one or several blocks of its output rows.

    While gradients are recorded it multiplies by a weight built for this step. Otherwise, on the CPU, by a merged
    weight that is kept as long as the learned tensors have the values it was made from; on other devices by one built
    for each pass, since looking at values there would wait for the device and cost more than building.

    Forward hooks of the frozen layer that are registered while it is adapted see the adapted layer's input and output;
    their return value is ignored.

    The frozen weight's own values are watched by identity and version only: after a write to it through ``.data``, call
    ``train()`` or ``eval()`` of the model.

    Args:
        base: The layer; its parameters are frozen here. It is never called.
        rows: The ``(start, stop)`` of each adapted block of output rows, e.g. query and value of a fused ``qkv``.
    """

    _magnitudes: Magnitudes
    columns: list[int]

    def __init__(self, base: nn.Linear, rows: list[tuple[int, int]]) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.projections = nn.ModuleList(Projection(start, stop, base.in_features) for start, stop in rows)
        self.projections.to(base.weight.device, learned_dtype(base.weight.dtype))
        #: Whether the updates are part of the weight.
        self.enabled = True
        #: Whether it took part in a compiled pass, since compiled code cannot report to the present call.
        self.took_part_compiled = False
        self._merged: _Merged | None = None

    def connect(self, magnitudes: Magnitudes, columns: list[int]) -> None:
        """Says which column of the model's magnitudes belongs to each projection.

        The magnitudes stay the model's own: one parameter, listed once in ``parameters()`` and the state dict.
        """
        object.__setattr__(self, "_magnitudes", magnitudes)  # a reference, not a submodule
        self.columns = columns

    @property
    def magnitudes(self) -> Magnitudes:
        """The magnitudes of the model that the layer belongs to."""
        return self._magnitudes

    def updates(self) -> list[Update]:
        """The update of each projection at the present magnitudes; none before the first experience or switched off."""
        alpha = self._magnitudes.values()  # (t, columns)
        if not len(alpha) or not self.enabled:
            return []
        return [p.update(alpha[:, column]) for p, column in zip(projections_of(self), self.columns)]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias ``(out,)``."""
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """The weight ``(out, in)`` in force, differentiable in magnitudes and factors, in the type of the frozen one.

        Some models (BEiT, EVA-02, SwinV2) never call the layer but read its weight.
        """
        self._take_part()
        if torch.is_grad_enabled():
            self._merged = None
            return adapted_weight(self.base.weight, self.updates())
        return self.merged(self.base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        self._take_part()
        if torch.is_grad_enabled():
            self._merged = None
            y = adapted_linear(x, self.base.weight, self.base.bias, self.updates())
        else:
            y = F.linear(x, self.merged(compute_dtype(x)), self.base.bias)
        if self.base._forward_hooks:  # counters of operations, Avalanche's MAC among them, look for an nn.Linear
            for hook in list(self.base._forward_hooks.values()):
                hook(self.base, (x,), y)
        return y

    def merged(self, dtype: torch.dtype) -> Tensor:
        """The weight ``(out, in)`` in force, in ``dtype`` and without gradient; on the CPU it may be a kept one."""
        weight = self.base.weight
        if not self.enabled:  # neither made nor kept: the merged weight is there again afterwards
            return weight.detach().to(dtype)
        if weight.device.type != "cpu" or torch.compiler.is_compiling():
            return merged_weight(weight, self.updates()).to(dtype)
        # Threads may come here at once: each looks at one object, and leaves a whole one behind.
        kept = self._merged
        if kept is None or kept.weight.dtype != dtype or not kept.made_from(self._frozen(), self._learned()):
            # The copies come first: if another thread trains meanwhile, the weight is at least as new as they are.
            frozen, learned = self._frozen(), [t.detach().clone() for t in self._learned()]
            kept = _Merged(frozen, learned, merged_weight(weight, self.updates()).to(dtype))
            self._merged = kept
        return kept.weight

    def _frozen(self) -> list[Tensor]:
        return list(self.base.parameters())

    def _learned(self) -> list[Tensor]:
        """All that the merged weight depends on besides the frozen weight."""
        tensors = [self._magnitudes.alpha, self._magnitudes.fixed]
        for p in projections_of(self):
            tensors += [p.A, p.B, p.bank_A, p.bank_B, p.owner, p.scale, p.offset]
        return tensors

    def _take_part(self) -> None:
        if torch.compiler.is_compiling():
            self.took_part_compiled = True
        else:
            take_part(self)

    def train(self, mode: bool = True) -> SDLoRALinear:
        """Also drops the merged weight, so that no write to the frozen weight, however it was done, outlives this."""
        self._merged = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> SDLoRALinear:
        self._merged = None  # moved or cast: values may change without a new version
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_merged": None}  # a copy builds its own

    def extra_repr(self) -> str:
        """Shape, adapted rows, and total rank."""
        rows = ", ".join(f"[{p.start}:{p.stop}]" for p in projections_of(self))
        ranks = ", ".join(str(len(p.owner)) for p in projections_of(self))
        return f"in={self.in_features}, out={self.out_features}, rows={rows}, ranks={ranks}"


def projections_of(module: nn.Module) -> list[Projection]:
    """Every projection below ``module``, in the order of ``modules()``."""
    return [m for m in module.modules() if isinstance(m, Projection)]


def adapters_of(module: nn.Module) -> dict[str, SDLoRALinear]:
    """Every adapted layer below ``module`` by its name, in the order of ``named_modules()``."""
    return {name: m for name, m in module.named_modules() if isinstance(m, SDLoRALinear)}


class _Merged:
    """A merged weight, with the tensors that it was made from."""

    def __init__(self, frozen: list[Tensor], learned: list[Tensor], weight: Tensor) -> None:
        self.frozen = frozen  # holding the tensors keeps their identities from being reused
        self.versions = [_version(t) for t in frozen]
        self.learned = learned  # copies: fused optimizers and writes through ``.data`` leave versions as they are
        self.weight = weight

    def made_from(self, frozen: list[Tensor], learned: list[Tensor]) -> bool:
        return (
            len(frozen) == len(self.frozen)
            and all(a is b for a, b in zip(frozen, self.frozen))
            and [_version(t) for t in frozen] == self.versions
            and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(learned, self.learned, strict=True))
        )


def _version(t: Tensor) -> tuple[int, int]:
    return t.data_ptr(), 0 if t.is_inference() else t._version  # tensors of inference mode have no version
