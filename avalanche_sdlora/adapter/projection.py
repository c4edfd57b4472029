"""An adapted block of rows along a stream: its bank of frozen directions, and the direction that trains."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.factors import Fit, fit_direction, spectrum
from avalanche_sdlora.adapter.functional import Update, factors_norm, product_norm
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.growing import GrowingModule


class Magnitudes(GrowingModule):
    """The magnitudes of the directions: ``values() (t, columns)``, oldest direction first.

    One column in all when they are shared, else one column per projection. Those that train are the parameter
    ``alpha``; where past directions are not rescaled, theirs are in the buffer ``fixed``. What they were at the end of
    each task is in ``history``: ``counts[k, 0]`` rows of it for task ``k + 1``, whose last direction was open if
    ``counts[k, 1]``.
    """

    GROWING: ClassVar = {"alpha": (0,), "fixed": (0,), "history": (0,), "counts": (0,)}

    fixed: Tensor
    history: Tensor
    counts: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(0, columns))
        self.register_buffer("fixed", torch.empty(0, columns))
        self.register_buffer("history", torch.empty(0, columns))
        self.register_buffer("counts", torch.empty(0, 2, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.fixed) + len(self.alpha)

    def values(self) -> Tensor:
        """``(t, columns)``; the gradient reaches ``alpha``."""
        return torch.cat([self.fixed, self.alpha]) if len(self.fixed) else self.alpha

    @torch.no_grad()
    def begin(self, config: SDLoRAConfig, frozen: bool, opened: bool) -> list[tuple[Tensor, Tensor]]:
        """Prepares a new task.

        Args:
            config: Its settings decide whether past magnitudes restart and whether they train.
            frozen: Whether the last direction has just been frozen.
            opened: Whether a new direction begins.

        Returns:
            The old parameter and the one that continues it, if it does.
        """
        old = self.alpha
        kept = old.clone()
        if frozen and config.boundary == "continuous":
            kept[-1] = 1.0  # the learned magnitude went into the scale of the frozen direction
        if config.reset_magnitudes:
            kept.fill_(config.magnitude_init)
        if not config.rescale_past:
            self.replace("fixed", torch.cat([self.fixed, kept]))
            kept = kept[:0]
        new = old.new_full((int(opened), old.shape[1]), config.magnitude_init)
        pair = self.replace("alpha", torch.cat([kept, new]))
        return [pair] if config.rescale_past else []

    def forget_last(self) -> None:
        """Drops the magnitude of a direction that no projection has any more."""
        self.replace("alpha", self.alpha[:-1])

    def regroup(self, groups: int) -> None:
        """Puts the value 1 for each of ``groups`` recompressed directions in place of all frozen magnitudes."""
        last = self.alpha[-1:].detach()
        ones = torch.ones_like(last).expand(groups, -1)
        trains = not len(self.fixed)
        self.replace("fixed", self.fixed[:0] if trains else ones.clone())
        self.replace("alpha", torch.cat([ones, last]) if trains else last.clone())

    # -- what they were ----------------------------------------------------------------------------------------------

    def record(self, task: int, opened: bool) -> None:
        """Remembers the magnitudes at the end of task number ``task``, from 1.

        Args:
            task: Its number; a record of it, or of a later one, is replaced.
            opened: Whether its last direction is one that trains.
        """
        self.forget_after(task - 1)
        gap = self.counts.new_zeros(task - 1 - len(self.counts), 2)  # tasks whose end was never told
        values = self.values().detach()
        self.replace("history", torch.cat([self.history, values]))
        self.replace("counts", torch.cat([self.counts, gap, gap.new_tensor([[len(values), int(opened)]])]))

    def forget_after(self, task: int) -> None:
        """Drops what is remembered of tasks after number ``task``."""
        if len(self.counts) > task:
            self.replace("counts", self.counts[:task])
            self.replace("history", self.history[: int(self.counts[:, 0].sum())])

    def at(self, task: int) -> tuple[Tensor, bool]:
        """The magnitudes ``(t, columns)`` at the end of task number ``task``; whether its last direction was open."""
        end = int(self.counts[:task, 0].sum())
        directions, opened = self.counts[task - 1].tolist()
        return self.history[end - directions : end], bool(opened)


class Projection(GrowingModule):
    """The low-rank update of the rows ``[start, stop)`` of a frozen weight.

    The coefficient of a low-rank column is the magnitude of the direction that owns it times the column's scale, plus
    the column's share in later directions that were absorbed: ``c = alpha[owner] * scale + offset``. Frozen directions
    lie in ``bank_A (R, in)`` and ``bank_B (out, R)``; the direction that trains is ``A (r, in)``, ``B (out, r)``,
    unnormalised, with scale 1. ``norm`` is the divisor of each column's direction; no coefficient depends on it.
    """

    GROWING: ClassVar = {
        "A": (0,),
        "B": (1,),
        "bank_A": (0,),
        "bank_B": (1,),
        "owner": (0,),
        "scale": (0,),
        "offset": (0,),
        "norm": (0,),
    }

    bank_A: Tensor
    bank_B: Tensor
    owner: Tensor
    scale: Tensor
    offset: Tensor
    norm: Tensor

    def __init__(self, start: int, stop: int, in_features: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.A = nn.Parameter(torch.empty(0, in_features))
        self.B = nn.Parameter(torch.empty(stop - start, 0))
        self.register_buffer("bank_A", torch.empty(0, in_features))
        self.register_buffer("bank_B", torch.empty(stop - start, 0))
        self.register_buffer("owner", torch.empty(0, dtype=torch.long))  # (R + r,)
        self.register_buffer("scale", torch.empty(0))  # (R + r,)
        self.register_buffer("offset", torch.empty(0))  # (R + r,)
        self.register_buffer("norm", torch.empty(0))  # (R + r,)

    def coefficients(self, alpha: Tensor) -> Tensor:
        """``c (R + r,)`` at the magnitudes ``alpha (t,)``."""
        return alpha.index_select(0, self.owner) * self.scale + self.offset

    def update(self, alpha: Tensor) -> Update:
        """The update at the magnitudes ``alpha (t,)``."""
        return Update(self.start, self.stop, self.coefficients(alpha), self.bank_A, self.bank_B, self.A, self.B)

    # -- the boundary between tasks --------------------------------------------------------------------------------

    @torch.no_grad()
    def freeze(self, alpha: Tensor, config: SDLoRAConfig) -> None:
        """Moves the trained direction into the bank, normalised (``D_k = B_k A_k / norm``).

        Args:
            alpha: The direction's trained magnitude, a scalar.
            config: ``norm`` and ``boundary`` decide the divisor and the scale that stays with the direction.

        Raises:
            FloatingPointError: The direction's norm is not finite.
        """
        if not len(self.A):
            return
        r, A, B = len(self.A), self.A.double(), self.B.double()
        norms = {"product": product_norm(A, B), "factors": factors_norm(A, B)}
        norm = norms[config.norm]
        if not torch.isfinite(norms["factors"] * alpha):  # the larger of the two
            raise FloatingPointError(f"the direction just learned has magnitude {float(alpha)} and norm {float(norm)}")
        if 0 < norm < 1e-3 * norms["factors"]:
            A, B = spectrum(A, B).factors(r)  # its columns nearly cancel, which float32 would not survive
        # Each factor at its own size. A task that taught nothing (B = 0) leaves a zero direction behind, never 0/0.
        size = torch.linalg.norm(A)
        A = torch.where(norm > 0, A / size, A)
        B = torch.where(norm > 0, B / norm * size, 0.0)
        self.norm[len(self.norm) - r :] = norm.to(self.norm.dtype)
        if config.boundary == "continuous":
            self.scale[len(self.scale) - r :] = (alpha.double() * norm).to(self.scale.dtype)
        self.replace("bank_A", torch.cat([self.bank_A, A.to(self.A.dtype)]))
        self.replace("bank_B", torch.cat([self.bank_B, B.to(self.B.dtype)], dim=1))
        self.replace("A", self.A[:0])
        self.replace("B", self.B[:, :0])

    @torch.no_grad()
    def begin(self, rank: int, direction: int) -> None:
        """Opens the direction number ``direction`` (from 0): ``A`` Kaiming-uniform (a = sqrt 5), ``B`` zero.

        The numbers are drawn on the CPU, so that a seed gives equal numbers on every device.
        """
        A = torch.empty(rank, self.A.shape[1])
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        self.replace("A", A.to(self.A.dtype))
        self.replace("B", self.B.new_zeros(len(self.B), rank))
        self.replace("owner", torch.cat([self.owner, self.owner.new_full((rank,), direction)]))
        self.replace("scale", torch.cat([self.scale, self.scale.new_ones(rank)]))
        self.replace("offset", torch.cat([self.offset, self.offset.new_zeros(rank)]))
        self.replace("norm", torch.cat([self.norm, self.norm.new_ones(rank)]))

    # -- making it smaller -----------------------------------------------------------------------------------------

    def fit(self, directions: int) -> Fit:
        """How well the ``directions`` frozen ones explain the one just learned."""
        R = len(self.bank_A)
        return fit_direction(self.A.detach(), self.B.detach(), self.bank_A, self.bank_B, self.owner[:R], directions)

    @torch.no_grad()
    def absorb(self, coefficients: Tensor) -> None:
        """Adds ``coefficients (t,)`` to those of the frozen directions and drops the new one."""
        R = len(self.bank_A)
        added = coefficients.to(self.offset)[self.owner[:R]]
        self.replace("offset", torch.cat([self.offset[:R] + added, self.offset[R:]]))
        self.set_current(self.A[:0], self.B[:, :0])

    @torch.no_grad()
    def truncate(self, energy: float) -> None:
        """Cuts the new direction down to the rank that keeps ``energy`` of its squared singular values."""
        parts = spectrum(self.A, self.B)
        rank = parts.rank_for_energy(energy)
        if rank < len(self.A):
            A, B = parts.factors(rank)
            self.set_current(A.to(self.A.dtype), B.to(self.B.dtype))

    @torch.no_grad()
    def recompress(self, alpha: Tensor, rank: int, groups: int) -> None:
        """Replaces the bank by the best approximation of its present sum of at most ``rank``.

        By Eckart and Young (Psychometrika 1936) that is the sum's leading singular components. They are divided,
        strongest first, into ``groups`` directions of unit norm that are orthogonal to each other, each with the scale
        that makes the magnitude 1 reproduce it; so past magnitudes can still be trained apart.
        """
        R = len(self.bank_A)
        parts = spectrum(self.bank_A, self.bank_B * self.coefficients(alpha)[:R])
        rank = min(rank, parts.rank())
        owner = torch.tensor_split(torch.arange(rank, device=parts.S.device), groups)
        norms = [torch.linalg.norm(parts.S[group]) for group in owner]
        scale = torch.cat([parts.S.new_zeros(0), *(n.expand(len(g)) for g, n in zip(owner, norms))])
        self.replace("bank_A", parts.Vh[:rank].to(self.bank_A.dtype))
        self.replace("bank_B", (parts.U[:, :rank] * (parts.S[:rank] / scale)).to(self.bank_B.dtype))
        ids = torch.cat(
            [g.new_full((len(g),), i) for i, g in enumerate(owner)] + [self.owner.new_full((len(self.A),), groups)]
        )
        self.replace("owner", ids)
        self.replace("scale", torch.cat([scale.to(self.scale), self.scale[R:]]))
        self.replace("offset", torch.cat([self.offset.new_zeros(rank), self.offset[R:]]))
        self.replace("norm", torch.cat([self.norm.new_ones(rank), self.norm[R:]]))

    @torch.no_grad()
    def set_current(self, A: Tensor, B: Tensor) -> None:
        """Puts ``A (r', in)`` and ``B (out, r')``, of no more rank, in place of the direction that trains."""
        end = len(self.bank_A) + len(A)
        self.replace("A", A)
        self.replace("B", B)
        for name in ("owner", "scale", "offset", "norm"):
            self.replace(name, getattr(self, name)[:end].clone())
