"""The model as it was after an earlier task, from the directions and the magnitudes of that moment.

Directions are kept for ever, so that little more is needed: the magnitudes at the end of each task, the norm by which
each direction was divided when it was frozen, and which classes the head knew then.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from avalanche_sdlora.adapter.projection import Projection

if TYPE_CHECKING:
    from avalanche_sdlora.model import SDLoRAModel


@torch.no_grad()
def model_at_task(model: SDLoRAModel, task: int, head: Literal["linear"] | None = None) -> SDLoRAModel:
    """A copy of ``model`` as it was after task number ``task``; see :meth:`SDLoRAModel.at_task`."""
    now = int(model.experiences)
    _check(model, task, head)
    frozen = {id(t): t for t in [*model.backbone.parameters(), *model.backbone.buffers()] if not t.requires_grad}
    learned = {id(t) for projection, _ in model._projections().values() for t in projection.buffers()}
    shared = {key: t for key, t in frozen.items() if key not in learned}
    past = copy.deepcopy(model, memo=shared)
    if head == "linear" and past.closed_form is not None:
        past.closed_form = None
        past.config = dataclasses.replace(past.config, head="linear", drift="none")
    if task < now or past.closed_form is None:
        values, opened = past.magnitudes.at(task)
        fixed = 0 if past.config.rescale_past else len(values) - opened
        past.magnitudes.replace("fixed", values[:fixed])
        past.magnitudes.replace("alpha", values[fixed:])
        past.magnitudes.forget_after(task)
        for projection, _ in past._projections().values():
            _cut(projection, len(values), opened)
        past.head.forget_after(task)
        past.experiences.fill_(task)
        past.reductions = past.reductions if task == now else []
    past._trained = past.count_trainable()
    return past.eval()


def _check(model: SDLoRAModel, task: int, head: str | None) -> None:
    now = int(model.experiences)
    ended = len(model.magnitudes.counts)
    name = f"task={task!r}"
    if head not in (None, "linear"):
        raise ValueError(f"head={head!r}: expected 'linear', for the trained head, or None, for the head that predicts")
    if type(task) is not int or not 1 <= task <= ended:
        raise ValueError(
            f"{name}: expected a number from 1 to {ended}, of a task that has been learned to its end; {now} have begun"
        )
    if not int(model.magnitudes.counts[task - 1, 0]) and model._adapters:
        raise ValueError(f"{name}: its magnitudes were not kept, by an earlier version of this package")
    if model.trains_backbone:
        raise ValueError(f"{name}: the backbone is trained too, and its earlier weights are not kept")
    if task < now and model.config.directions == "single":
        raise ValueError(f"{name}: directions='single' trains one direction on and on, and what it was is not kept")
    if task < int(model.rewritten):
        raise ValueError(
            f"{name}: at task {int(model.rewritten)} earlier directions were recompressed or distilled into each other "
            "(rank_budget, kd_tolerance), or taken back (the default, where they do not help), and what they were is "
            "not kept"
        )
    if model.closed_form is not None and head is None and (task < now or not model.closed_form.ready):
        raise ValueError(
            f"{name}: the head {model.config.head!r} is solved from all that has been seen, and its solution of that "
            "moment is not kept. The trained head predicts with at_task(..., head='linear')"
        )
    if not model.head.unmoved_since(task):
        raise ValueError(
            f"{name}: rows of the trained head have been trained again since, as replay does, and are not kept"
        )


def _cut(projection: Projection, directions: int, opened: bool) -> None:
    """Takes the directions away that came later, and opens the last one again where it was open."""
    A = torch.cat([projection.bank_A, projection.A])
    B = torch.cat([projection.bank_B, projection.B], dim=1)
    owner, scale, offset = projection.owner, projection.scale, projection.offset
    last = (owner == directions - 1) & opened
    bank = (owner < directions) & ~last
    # Undivided, as it was while it trained.
    projection.replace("A", A[last])
    projection.replace("B", (B[:, last].double() * projection.norm[last].double()).to(B.dtype))
    projection.replace("bank_A", A[bank])
    projection.replace("bank_B", B[:, bank])

    def joined(frozen: Tensor, trains: Tensor) -> Tensor:
        return torch.cat([frozen[bank], trains[last]])

    ones = torch.ones_like(scale)
    projection.replace("owner", joined(owner, owner))
    projection.replace("scale", joined(scale, ones))
    projection.replace("offset", joined(offset, torch.zeros_like(offset)))
    projection.replace("norm", joined(projection.norm, ones))
