"""A checksum of the frozen backbone that learned tensors belong to."""

from __future__ import annotations

from avalanche_sdlora.adapter import SDLoRALinear
from avalanche_sdlora.attention import IN_PROJ, SDLoRAMultiheadAttention
from avalanche_sdlora.learned import BACKBONE, learned_state
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.persistence.tensorfile import hash_tensors


def fingerprint(model: SDLoRAModel) -> str:
    """SHA-256 of the frozen backbone: names, types, shapes and values of its parameters and buffers.

    The names are those of the backbone before it was adapted.
    """
    state, learned = model.state_dict(), learned_state(model)
    own = {}
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, SDLoRALinear):
            own[f"{name}.base."] = f"{name}."
        if isinstance(m, SDLoRAMultiheadAttention):
            own[f"{name}.{IN_PROJ}.base."] = f"{name}.{IN_PROJ}_"
    frozen = {}
    for name in state.keys() - learned.keys():
        adapted = next((prefix for prefix in own if name.startswith(prefix)), "")
        frozen[own.get(adapted, "") + name.removeprefix(adapted)] = state[name]
    return hash_tensors({name.removeprefix(BACKBONE): t for name, t in frozen.items()}).hexdigest()
