"""Which layers of a backbone are adapted: query and value by default, or any ``nn.Linear`` by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from avalanche_sdlora.ranks import RankSchedule

# Names under which models keep separate query, key and value layers.
_SEPARATE = (
    {"q": "q_proj", "k": "k_proj", "v": "v_proj"},
    {"q": "query", "k": "key", "v": "value"},
    {"q": "to_q", "k": "to_k", "v": "to_v"},
    {"q": "q", "k": "k", "v": "v"},
)

# timm's attention classes whose fused `qkv` has rows [query | key | value]. Others (MaxViT, TinyViT) interleave them by
# head, which no shape reveals, so a class is trusted only by name.
_FUSED_IN_THIRDS = {
    "timm.layers.attention": ("Attention", "AttentionRope"),
    "timm.models.vision_transformer": ("Attention",),
    "timm.models.vision_transformer_relpos": ("RelPosAttention",),
    "timm.models.eva": ("EvaAttention",),
    "timm.models.beit": ("Attention",),
    "timm.models.cait": ("TalkingHeadAttn",),
    "timm.models.swin_transformer": ("WindowAttention",),
    "timm.models.swin_transformer_v2": ("WindowAttention",),
}


class Target(NamedTuple):
    """One layer to adapt."""

    name: str
    rows: list[tuple[int, int]]  # (start, stop) of each adapted block of output rows


def find_targets(model: nn.Module, patterns: Sequence[str], rank: int | RankSchedule) -> list[Target]:
    """The layers that ``patterns`` select, in the order of ``model.named_modules()``.

    Args:
        model: The backbone.
        patterns: ``"attention.qv"`` or shell-style patterns, as in :class:`SDLoRAConfig`.
        rank: What they must be able to hold: a rank, or the first of a schedule.

    Raises:
        ValueError: A pattern matches nothing (with near matches), the layout of a fused projection is unknown, a
            layer is selected twice, or ``rank`` exceeds a layer's size.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    selected: dict[str, list[tuple[int, int]]] = {}
    for pattern in patterns:
        found = _attention(model, pattern) if pattern.startswith("attention.") else _named(layers, pattern)
        for name, rows in found.items():
            if name in selected:
                raise ValueError(f"targets={tuple(patterns)!r}: layer {name!r} is selected by more than one pattern")
            selected[name] = rows
    targets = [Target(name, selected[name]) for name in layers if name in selected]
    for i, (name, rows) in enumerate(targets):
        needed = rank if isinstance(rank, int) else rank.rank(1, i, len(targets))
        for start, stop in rows:
            limit = min(stop - start, layers[name].in_features)
            if needed > limit:
                raise ValueError(
                    f"rank={needed}: larger than layer {name!r} allows; its adapted block is {stop - start} by "
                    f"{layers[name].in_features}, so the rank is at most {limit}"
                )
    return targets


def _attention(model: nn.Module, pattern: str) -> dict[str, list[tuple[int, int]]]:
    letters = _letters(pattern, pattern.removeprefix("attention."))
    found: dict[str, list[tuple[int, int]]] = {}
    unknown: list[str] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        qkv = getattr(module, "qkv", None)
        if isinstance(qkv, nn.Linear):
            if type(module).__name__ in _FUSED_IN_THIRDS.get(type(module).__module__, ()):
                found[f"{prefix}qkv"] = _thirds(f"{prefix}qkv", qkv, letters)
            else:
                unknown.append(f"{prefix}qkv")
            continue
        for names in _SEPARATE:
            parts = {letter: getattr(module, child, None) for letter, child in names.items()}
            if all(isinstance(part, nn.Linear) for part in parts.values()):
                found.update({f"{prefix}{names[c]}": [(0, parts[c].out_features)] for c in letters})  # type: ignore[union-attr]
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
    return found


def _named(layers: dict[str, nn.Linear], pattern: str) -> dict[str, list[tuple[int, int]]]:
    glob, colon, suffix = pattern.partition(":")
    matches = [name for name in layers if fnmatchcase(name, glob)]
    if not matches:
        near = difflib.get_close_matches(glob, list(layers), n=3, cutoff=0.4)
        hint = f"near matches: {', '.join(near)}" if near else f"there are {len(layers)} nn.Linear layers"
        raise ValueError(f"targets={pattern!r}: matches no nn.Linear of the model; {hint}")
    if not colon:
        return {name: [(0, layers[name].out_features)] for name in matches}
    return {name: _thirds(name, layers[name], _letters(pattern, suffix)) for name in matches}


def _letters(pattern: str, letters: str) -> str:
    if not letters or set(letters) - set("qkv") or len(set(letters)) != len(letters):
        raise ValueError(
            f"targets={pattern!r}: expected letters out of 'q', 'k' and 'v', each once, as in 'attention.qv'"
        )
    return letters


def _thirds(name: str, layer: nn.Linear, letters: str) -> list[tuple[int, int]]:
    d, rest = divmod(layer.out_features, 3)
    if rest:
        raise ValueError(f"layer {name!r} has {layer.out_features} output rows, which are not three equal blocks")
    return [("qkv".index(c) * d, ("qkv".index(c) + 1) * d) for c in sorted(letters, key="qkv".index)]


def _hint(model: nn.Module) -> str:
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    return f", for instance {names[0]!r}" if names else ""
