"""Which layers of a backbone are adapted: query and value by default, or any ``nn.Linear`` by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from avalanche_sdlora.adapter.attention import IN_PROJ, in_projection
from avalanche_sdlora.adapter.layouts import block_rows, blocks, fused
from avalanche_sdlora.adapter.linear import SDLoRALinear
from avalanche_sdlora.near import did_you_mean
from avalanche_sdlora.ranks import RankSchedule

logger = logging.getLogger("avalanche_sdlora")

# Subclasses of nn.Linear whose own forward is nn.Linear's in another form.
_PLAIN = {("timm.layers.linear", "Linear")}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Target(NamedTuple):
    """One layer to adapt."""

    name: str
    rows: list[tuple[int, int]]  # (start, stop) of each adapted block of output rows
    aliases: tuple[str, ...] = ()  # further names of the very layer, which must not stay plain there

    def layer(self, model: nn.Module) -> nn.Linear:
        """The layer in ``model``; for the fused parameter of an ``nn.MultiheadAttention``, a layer that holds it."""
        return _layer(model, self.name)


def find_targets(model: nn.Module, patterns: Sequence[str], rank: int | RankSchedule) -> list[Target]:
    """The layers that ``patterns`` select, in the order of ``model.named_modules()``.

    Attention blocks of unknown layout beside known ones stay as they are, which is logged.

    Args:
        model: The backbone.
        patterns: ``"attention.qv"`` or shell-style patterns, as in ``SDLoRAConfig``.
        rank: The rank that every layer must be able to hold, or the schedule whose first rank it must.

    Raises:
        ValueError: A pattern matches nothing (with near matches), the layout of a fused projection is unknown, a
            layer is selected twice or does more than its weight, ``rank`` exceeds a layer's size, or the model is
            adapted already.
    """
    if any(isinstance(m, SDLoRALinear) for m in model.modules()):
        raise ValueError(
            f"the {type(model).__name__} is adapted already: it is the backbone of an SDLoRAModel. Go on with that "
            "model, or take the adapters out: backbone = model.unload()"
        )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    names = _names(model)
    selected: dict[str, list[tuple[int, int]]] = {}
    for pattern in patterns:
        found = _attention(model, pattern) if pattern.startswith("attention.") else _named(layers, pattern)
        for name, rows in found.items():
            first = names.get(name, [name])[0]
            if first in selected:
                raise ValueError(f"targets={tuple(patterns)!r}: layer {first!r} is selected by more than one pattern")
            selected[first] = rows
    targets = [
        Target(name, selected[name], tuple(names.get(name, [name])[1:])) for name in _places(model) if name in selected
    ]
    for i, (name, rows, _) in enumerate(targets):
        layer = _layer(model, name)
        _check_plain(layer, name)
        needed = rank if isinstance(rank, int) else rank.rank(1, i, len(targets))
        for start, stop in rows:
            limit = min(stop - start, layer.in_features)
            if needed > limit:
                raise ValueError(
                    f"rank={needed}: larger than layer {name!r} allows; its adapted block is {stop - start} by "
                    f"{layer.in_features}, so the rank is at most {limit}"
                )
    return targets


def _places(model: nn.Module) -> Iterator[str]:
    """Where adapters can be, in the order that they will have in ``model.named_modules()``."""
    attention = ""
    for name, module in model.named_modules():
        yield name
        if isinstance(module, nn.MultiheadAttention):
            attention = f"{name}." if name else ""
        elif name == f"{attention}out_proj":  # its last submodule, until the fused projection is adapted
            yield f"{attention}{IN_PROJ}"


def _names(model: nn.Module) -> dict[str, list[str]]:
    """All names of the layer that each name means, the one that ``named_modules()`` gives first."""
    by_layer: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear):
            by_layer.setdefault(id(module), []).append(name)
    return {name: names for names in by_layer.values() for name in names}


def _layer(model: nn.Module, name: str) -> nn.Linear:
    parent, _, last = name.rpartition(".")
    owner = model.get_submodule(parent)
    if last == IN_PROJ and isinstance(owner, nn.MultiheadAttention):
        return in_projection(owner)
    return model.get_submodule(name)  # type: ignore[return-value]


def _check_plain(layer: nn.Linear, name: str) -> None:
    """Refuses a layer that computes anything but ``x W^T + b``, which its adapter would drop in silence.

    Raises:
        ValueError: The layer computes something else.
    """
    kind = type(layer)
    if parametrize.is_parametrized(layer):
        more = "has a parametrization; bake it in: torch.nn.utils.parametrize.remove_parametrizations"
    elif "forward" in vars(layer) or kind.__call__ is not nn.Linear.__call__:
        more = "has had its forward replaced; undo that"
    elif kind.forward is not nn.Linear.forward and (kind.__module__, kind.__name__) not in _PLAIN:
        more = (
            f"is a {kind.__module__}.{kind.__qualname__} with a forward of its own; put a plain nn.Linear in its place"
        )
    elif any(vars(layer)[hooks] for hooks in _HOOKS):
        more = "has hooks; remove them, and hook its adapter afterwards: model.backbone.get_submodule(name)"
    else:
        return
    raise ValueError(
        f"layer {name!r} {more}, or name other targets. An adapted layer computes with the weight and bias alone, so "
        "that anything more would be lost"
    )


def _attention(model: nn.Module, pattern: str) -> dict[str, list[tuple[int, int]]]:
    letters = _letters(pattern, pattern.removeprefix("attention."))
    found: dict[str, list[tuple[int, int]]] = {}
    unknown: list[str] = []
    left: list[str] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        own = blocks(module, letters)
        if own is not None:
            found.update({f"{prefix}{child}": rows for child, rows in own.items()})
        elif fused(module):
            unknown.append(f"{prefix}qkv")
        else:
            left.append(name)
    if unknown:
        raise ValueError(
            f"targets={pattern!r}: the order of query, key and value in the fused projection {unknown[0]!r} "
            f"({len(unknown)} in all) is not known for this model. If its output rows are [query | key | value], say "
            f"so with targets='*{unknown[0].rsplit('.', 1)[-1]}:{letters}'; to adapt whole layers, name them by pattern"
        )
    if not found:
        raise ValueError(
            f"targets={pattern!r}: {type(model).__name__} has no attention block with a Linear qkv or separate query, "
            f"key and value layers; name the nn.Linear layers to adapt by pattern{_hint(model)}"
        )
    if left:
        logger.warning(
            "targets=%r: %d attention blocks of %s stay unadapted, since no layout is known for them, the first being "
            "%r; their nn.Linear layers can be named by pattern beside %r",
            pattern,
            len(left),
            type(model).__name__,
            left[0],
            pattern,
        )
    return found


def _named(layers: dict[str, nn.Linear], pattern: str) -> dict[str, list[tuple[int, int]]]:
    glob, colon, suffix = pattern.partition(":")
    matches = [name for name in layers if fnmatchcase(name, glob)]
    if not matches:
        hint = did_you_mean(glob, layers, cutoff=0.4) or f"; there are {len(layers)} nn.Linear layers"
        raise ValueError(f"targets={pattern!r}: matches no nn.Linear of the model{hint}")
    if not colon:
        return {name: [(0, layers[name].out_features)] for name in matches}
    letters = _letters(pattern, suffix)
    return {name: block_rows(name, layers[name].out_features, "qkv", letters) for name in matches}


def _letters(pattern: str, letters: str) -> str:
    if not letters or set(letters) - set("qkv") or len(set(letters)) != len(letters):
        raise ValueError(
            f"targets={pattern!r}: expected letters out of 'q', 'k' and 'v', each once, as in 'attention.qv'"
        )
    return letters


def _hint(model: nn.Module) -> str:
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    return f", for instance {names[0]!r}" if names else ""
