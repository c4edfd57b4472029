"""What a model has learned, apart from the frozen backbone it stands on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.functional import merged_weight
from avalanche_sdlora.adapter.projection import Magnitudes, Projection
from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.growing_head import GrowingHead
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.processes import first_object, from_first, is_first, several

#: The prefix of the backbone's tensors in a model's state dict.
BACKBONE = "backbone."


def learned_state(model: SDLoRAModel) -> dict[str, Tensor]:
    """The part of ``model.state_dict()`` that is not frozen: unfrozen tensors of the backbone are learned, too."""
    # By all of its names, since a layer may be used under several.
    growing = tuple(f"{name}." for name, m in _everywhere(model) if isinstance(m, GrowingModule))
    unfrozen = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    state = model.state_dict()
    return {
        name: t
        for name, t in state.items()
        if not name.startswith(BACKBONE) or name.startswith(growing) or name in unfrozen
    }


def _everywhere(model: SDLoRAModel) -> Iterator[tuple[str, nn.Module]]:
    return model.named_modules(remove_duplicate=False)


def load_learned(model: SDLoRAModel, state: Mapping[str, Tensor]) -> None:
    """Puts the tensors of :func:`learned_state` into ``model``, which may be at any stage of the stream.

    Raises:
        ValueError: The state does not fit; the model is untouched.
    """
    check_learned(model, state)
    model.load_state_dict(state, strict=False)


def align_learned(model: SDLoRAModel, changed: bool) -> bool:
    """Puts what the first process's reduction of rank has made in place of each one's own, bit for bit.

    A head in closed form is left out: it changes later.

    Args:
        model: After its ``end_experience()``, in every process.
        changed: What that returned.

    Returns:
        What it returned in the first process.
    """
    if not several():
        return changed
    changed, model.reductions = first_object((changed, model.reductions))
    if changed:
        state = from_first(lambda: {n: t for n, t in learned_state(model).items() if not n.startswith("closed_form.")})
        if not is_first():
            model.load_state_dict(state, strict=False)
    return changed


@torch.no_grad()
def check_learned(model: SDLoRAModel, state: Mapping[str, Tensor]) -> None:
    """Refuses a state that the model could not load, or could not compute with.

    Raises:
        ValueError: A tensor is missing, unknown, or does not fit the model or the other tensors.
    """
    own = learned_state(model)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        said = [
            f"{len(n)} {what} tensors, the first {n[0]!r}"
            for what, n in (("missing", missing), ("unknown", unknown))
            if n
        ]
        raise ValueError(f"{' and '.join(said)}; expected the state of a model with the same targets")
    for name, tensor in state.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise ValueError(f"{name!r} holds {tensor.dtype}; expected {own[name].dtype}")
    parts = {name: m for name, m in _everywhere(model) if isinstance(m, GrowingModule)}
    for name in own:
        if not name.startswith(tuple(f"{part}." for part in parts)) and state[name].shape != own[name].shape:
            raise ValueError(f"{name!r} has shape {tuple(state[name].shape)}; expected {tuple(own[name].shape)}")
    # Copies of the parts that learn, without the backbone, load and use the state first; on the CPU, where an index
    # out of range is an error and no more.
    trial = {name: copy.deepcopy(part).cpu() for name, part in parts.items()}
    for name, part in trial.items():
        prefix = f"{name}."
        try:
            part.load_state_dict({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{name!r} cannot hold it: {' '.join(str(error).split())}") from error
    alpha = next(part for part in trial.values() if isinstance(part, Magnitudes)).values()
    for name, part in trial.items():
        try:
            if isinstance(part, Projection):
                merged_weight(torch.zeros(part.stop, part.A.shape[1]), [part.update(alpha[:, 0])])
            elif isinstance(part, GrowingHead):
                part(part.weight.new_zeros(1, part.in_features), part.task_labels[:1] if part.multi_head else None)
            elif isinstance(part, ClosedFormHead):
                part(torch.zeros(1, part.before.shape[1]))
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"the tensors of {name!r} do not fit together: {error}") from error
