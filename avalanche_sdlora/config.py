"""What an SD-LoRA run learns: one frozen dataclass and the two published presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SDLoRAConfig:
    """Settings of SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198).

    The defaults are this library's own choice: a boundary that changes nothing already learned and one
    magnitude per projection. :meth:`paper` and :meth:`reference` reproduce the published variants.

    Args:
        rank: Rank ``r`` of each new direction, from 1 to the smaller side of the adapted layers.
        targets: Which layers are adapted. ``"attention.qv"`` (query and value of every attention block; any
            letters of ``q``, ``k``, ``v``), or one or several shell-style patterns of ``nn.Linear`` names such as
            ``"blocks.*.mlp.fc1"``. A pattern may end in ``:qv`` to adapt those thirds of a fused projection.
        norm: What a learned direction is divided by when it is frozen. ``"product"``: ``||B A||_F``, unit
            Frobenius norm (the paper). ``"factors"``: ``||B||_F ||A||_F`` (the authors' code).
        boundary: What happens to the function when a direction is frozen. ``"continuous"``: the scale that was
            learned stays with the direction, so the function does not change and its magnitude continues from 1.
            ``"reset"``: the direction is only normalised, so the function jumps (as published).
        magnitudes: ``"per_projection"``: each adapted projection has its own ``alpha_k``. ``"shared"``: one
            ``alpha_k`` per task for all projections (the paper).
        magnitude_init: Initial ``alpha`` of a new direction.
        reset_magnitudes: Whether every ``alpha`` returns to ``magnitude_init`` when a new task begins. With the
            continuous boundary that would change the function, so the two together are refused.
        use_task_labels: Whether the task labels of a stream that has them select the classes that compete
            (task-incremental learning). With ``False`` the labels are ignored.

    Raises:
        ValueError: A setting is outside its range; the message names it.
    """

    rank: int = 10
    targets: str | tuple[str, ...] = "attention.qv"
    norm: Literal["product", "factors"] = "product"
    boundary: Literal["continuous", "reset"] = "continuous"
    magnitudes: Literal["per_projection", "shared"] = "per_projection"
    magnitude_init: float = 1.0
    reset_magnitudes: bool = False
    use_task_labels: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.targets, list):
            object.__setattr__(self, "targets", tuple(self.targets))
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank={self.rank!r}: expected an integer of at least 1")
        if not self.targets or not all(isinstance(p, str) and p for p in self.target_patterns):
            raise ValueError(f"targets={self.targets!r}: expected a non-empty pattern, or several in a tuple")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, allowed))}")
        if not math.isfinite(self.magnitude_init) or self.magnitude_init == 0:
            # With alpha = 0 and B = 0 neither would ever receive a gradient.
            raise ValueError(f"magnitude_init={self.magnitude_init!r}: expected a finite number other than 0")
        if self.boundary == "continuous" and self.reset_magnitudes:
            raise ValueError(
                "reset_magnitudes=True with boundary='continuous': resetting changes the function that a "
                "continuous boundary keeps; use boundary='reset', or reset_magnitudes=False"
            )

    @property
    def target_patterns(self) -> tuple[str, ...]:
        """``targets`` as a tuple."""
        return (self.targets,) if isinstance(self.targets, str) else self.targets

    @classmethod
    def paper(cls, **overrides: Any) -> SDLoRAConfig:
        """The equations and Section 4 of the paper: ``||BA||_F``, alpha starts and restarts at 1, shared."""
        settings: dict[str, Any] = {
            "norm": "product",
            "boundary": "reset",
            "magnitudes": "shared",
            "magnitude_init": 1.0,
            "reset_magnitudes": True,
        }
        return cls(**{**settings, **overrides})

    @classmethod
    def reference(cls, **overrides: Any) -> SDLoRAConfig:
        """What the authors' code does: ``||B||_F ||A||_F``, alpha starts and restarts at 0.8, shared."""
        return cls.paper(**{"norm": "factors", "magnitude_init": 0.8, **overrides})


_CHOICES = {
    "norm": ("product", "factors"),
    "boundary": ("continuous", "reset"),
    "magnitudes": ("per_projection", "shared"),
}
