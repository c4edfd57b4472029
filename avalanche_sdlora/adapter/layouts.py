"""Where attention blocks keep query, key and value, as read from the sources of the models."""

from __future__ import annotations

from torch import nn

from avalanche_sdlora.adapter.attention import IN_PROJ

Rows = list[tuple[int, int]]

# Names under which models keep separate query, key and value layers.
_SEPARATE = (
    {"q": "q_proj", "k": "k_proj", "v": "v_proj"},
    {"q": "query", "k": "key", "v": "value"},
    {"q": "to_q", "k": "to_k", "v": "to_v"},
    {"q": "q", "k": "k", "v": "v"},
)

# Attention classes whose fused `qkv` has rows [query | key | value]. Others (TinyViT, LeViT, MaxViT) interleave them by
# head, which no shape reveals, so a class is trusted only by name, once its source has been read.
_FUSED_IN_THIRDS = {
    "timm.layers.attention": ("Attention", "AttentionRope"),
    "timm.models.vision_transformer": ("Attention",),
    "timm.models.vision_transformer_relpos": ("RelPosAttention",),
    "timm.models.vision_transformer_sam": ("Attention",),
    "timm.models.eva": ("EvaAttention",),
    "timm.models.beit": ("Attention",),
    "timm.models.cait": ("TalkingHeadAttn",),
    "timm.models.coat": ("FactorAttnConvRelPosEnc",),
    "timm.models.convit": ("MHSA",),
    "timm.models.davit": ("ChannelAttentionV2", "ChannelAttention", "WindowAttention"),
    "timm.models.edgenext": ("CrossCovarianceAttn",),
    "timm.models.fastvit": ("Attention",),
    "timm.models.hiera": ("MaskUnitAttention",),
    "timm.models.hieradet_sam2": ("MultiScaleAttention",),
    "timm.models.mvitv2": ("MultiScaleAttention",),
    "timm.models.nest": ("Attention",),
    "timm.models.swin_transformer": ("WindowAttention",),
    "timm.models.swin_transformer_v2": ("WindowAttention",),
    "timm.models.swin_transformer_v2_cr": ("WindowMultiHeadAttention",),
    "timm.models.twins": ("LocallyGroupedAttn",),
    "timm.models.volo": ("Attention",),
    "timm.models.xcit": ("XCA",),
    "torchvision.models.swin_transformer": ("ShiftedWindowAttention", "ShiftedWindowAttentionV2"),
}

# Attention classes with `q` and a fused `kv` whose rows are [key | value]. By name, too: pooling heads look alike.
_KEY_AND_VALUE_IN_HALVES: dict[str, tuple[str, ...]] = {
    "timm.models.pvt_v2": ("Attention",),
    "timm.models.twins": ("GlobalSubSampleAttn",),
    "timm.models.volo": ("ClassAttention",),
}

# Attention classes with a fused `qk` whose rows are [query | key], and `v`.
_QUERY_AND_KEY_IN_HALVES: dict[str, tuple[str, ...]] = {"timm.models.convit": ("GPSA",)}

# Other attention modules: beside blocks of known layout they stay as they are.
_OTHER = ({"kv"}, {"wq", "wk", "wv"}, {"qk", "v"})


def blocks(module: nn.Module, letters: str) -> dict[str, Rows] | None:
    """The rows of ``letters`` in the layers right below an attention block ``module``, by the layer's name.

    Args:
        module: Any module.
        letters: Out of ``q``, ``k`` and ``v``.

    Returns:
        An empty dict if ``module`` is no attention block; None if it is one of unknown layout.

    Raises:
        ValueError: A fused projection cannot be divided into equal blocks.
    """
    if isinstance(module, nn.MultiheadAttention):
        if type(module) is not nn.MultiheadAttention or module.in_proj_weight is None:
            return None
        return {IN_PROJ: block_rows(IN_PROJ, len(module.in_proj_weight), "qkv", letters)}
    qkv = getattr(module, "qkv", None)
    if isinstance(qkv, nn.Linear):
        trusted = _listed(module, _FUSED_IN_THIRDS)
        return {"qkv": block_rows("qkv", qkv.out_features, "qkv", letters)} if trusted else None
    for pair, single, table in (("kv", "q", _KEY_AND_VALUE_IN_HALVES), ("qk", "v", _QUERY_AND_KEY_IN_HALVES)):
        both, other = (getattr(module, name, None) for name in (pair, single))
        if isinstance(both, nn.Linear) and isinstance(other, nn.Linear) and _listed(module, table):
            found: dict[str, Rows] = {single: [(0, other.out_features)]} if single in letters else {}
            own = letters.replace(single, "")
            return found | ({pair: block_rows(pair, both.out_features, pair, own)} if own else {})
    for names in _SEPARATE:
        parts = {letter: getattr(module, child, None) for letter, child in names.items()}
        if all(isinstance(part, nn.Linear) for part in parts.values()):
            return {names[c]: [(0, parts[c].out_features)] for c in letters}  # type: ignore[union-attr]
    children = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
    return None if any(names <= children for names in _OTHER) else {}


def fused(module: nn.Module) -> bool:
    """Whether ``module`` has a fused ``qkv``, whose layout may be unknown."""
    return isinstance(getattr(module, "qkv", None), nn.Linear)


def block_rows(name: str, out_features: int, blocks: str, letters: str) -> Rows:
    """``(start, stop)`` of each of ``letters`` in rows that are divided into equal ``blocks``.

    Raises:
        ValueError: The rows cannot be divided into equal blocks.
    """
    d, rest = divmod(out_features, len(blocks))
    if rest:
        count = {2: "two", 3: "three"}[len(blocks)]
        raise ValueError(f"layer {name!r} has {out_features} output rows, which are not {count} equal blocks")
    return [(blocks.index(c) * d, (blocks.index(c) + 1) * d) for c in sorted(letters, key=blocks.index)]


def _listed(module: nn.Module, table: dict[str, tuple[str, ...]]) -> bool:
    return type(module).__name__ in table.get(type(module).__module__, ())
