"""A checksum of the frozen backbone that learned tensors belong to."""

from __future__ import annotations

from avalanche_sdlora.adapter.attention import IN_PROJ, SDLoRAMultiheadAttention
from avalanche_sdlora.adapter.linear import SDLoRALinear
from avalanche_sdlora.learned import BACKBONE, learned_state
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.persistence.tensorfile import hash_tensors


def fingerprint(model: SDLoRAModel) -> str:
    """SHA-256 of the frozen backbone: names, types, shapes and values of its parameters and buffers.

    The names are those of the backbone before it was adapted.
    """
    state, learned = model.state_dict(), learned_state(model)
    modules = list(model.named_modules(remove_duplicate=False))
    own = {f"{name}.base.": f"{name}." for name, m in modules if isinstance(m, SDLoRALinear)}
    own |= {f"{n}.{IN_PROJ}.base.": f"{n}.{IN_PROJ}_" for n, m in modules if isinstance(m, SDLoRAMultiheadAttention)}
    frozen = {}
    for name in state.keys() - learned.keys():
        adapted = next((prefix for prefix in own if name.startswith(prefix)), "")
        frozen[own.get(adapted, "") + name.removeprefix(adapted)] = state[name]
    return hash_tensors({name.removeprefix(BACKBONE): t for name, t in frozen.items()}).hexdigest()
