"""Every family of vision transformer is adapted exactly where it should be, or refused."""

import pytest
import timm
import torch
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.functional import merged_weight
from avalanche_sdlora.adapter.targets import find_targets
from tests.common import learn_something, mlp, shake, tiny_vit

SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
FAMILIES = {  # name: settings that make it small; two adapted layers where not noted
    "vit_tiny_patch16_224": {},
    "deit3_small_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "vit_small_patch14_dinov2": {"patch_size": 16},
    "vit_small_patch16_dinov3": {},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_siglip_224": {},
    "vit_relpos_small_patch16_224": {},
    "beit_base_patch16_224": {},
    "eva02_tiny_patch14_224": {"patch_size": 16},
    "eva02_base_patch14_224": {"patch_size": 16},  # separate projections: four layers
    "cait_xxs24_224": {},
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def family(name):
    settings = FAMILIES[name]
    if settings is not SWIN:
        return tiny_vit(name, **settings)
    torch.manual_seed(0)
    return shake(timm.create_model(name, **settings))


@pytest.mark.parametrize("name", FAMILIES)
def test_adapted_model_equals_the_plain_model_with_the_dense_weights(name):
    model = SDLoRAModel(family(name), SDLoRAConfig(rank=2))
    for k in range(2):
        model.begin_experience({0: [k]})
        learn_something(model)
    model.eval()
    plain = family(name).eval()
    plain.reset_classifier(0)
    before = plain(IMAGES)
    for layer, adapter in model._adapters.items():
        plain.get_submodule(layer).weight.data = merged_weight(adapter.base.weight, adapter.updates())
    ours = model.features(IMAGES)
    torch.testing.assert_close(ours, plain(IMAGES), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model.features(IMAGES), ours, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, before, atol=1e-2)
    ours.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.trainable_groups()["directions"])
    assert all(p.grad is None for p in plain.parameters() if not p.requires_grad)


def test_query_and_value_rows_of_a_fused_projection():
    targets = find_targets(tiny_vit(), ["attention.qv"], rank=2)
    assert [t.name for t in targets] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert targets[0].rows == [(0, 24), (48, 72)]


def test_separate_projections():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    model = nn.ModuleDict({"a": Attention(), "b": Attention()})
    names = [t.name for t in find_targets(model, ["attention.qv"], rank=2)]
    assert names == ["a.query", "a.value", "b.query", "b.value"]


def test_patterns_name_layers_and_thirds():
    vit = tiny_vit()
    assert [t.rows for t in find_targets(vit, ["blocks.*.mlp.fc1"], 2)] == [[(0, 96)], [(0, 96)]]
    assert [t.rows for t in find_targets(vit, ["*.qkv:kv"], 2)] == [[(24, 48), (48, 72)]] * 2
    assert len(find_targets(vit, ["attention.q", "blocks.1.mlp.*"], 2)) == 4
    SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=2, targets=("blocks.*.mlp.fc?",))).features(IMAGES)


@pytest.mark.parametrize(
    ("patterns", "rank", "message"),
    [
        (
            ["blocks.*.atn.qkv"],
            2,
            r"targets='blocks.*atn.qkv': matches no nn.Linear.*did you mean .*blocks.0.attn.qkv",
        ),
        (["*.mlp.fc1:qv", "*.mlp.fc1"], 2, "selected by more than one pattern"),
        (["*.patch_embed"], 2, "matches no nn.Linear"),
        (["*.attn.proj:qv"], 2, None),
        (["attention.qx"], 2, "expected letters out of"),
        (["attention.qv"], 25, r"rank=25: larger than layer 'blocks.0.attn.qkv' allows.*at most 24"),
    ],
)
def test_refused_targets(patterns, rank, message):
    if message is None:
        assert find_targets(tiny_vit(), patterns, rank)[0].rows == [(0, 8), (16, 24)]
        return
    with pytest.raises(ValueError, match=message):
        find_targets(tiny_vit(), patterns, rank)


@pytest.mark.parametrize("name", ["maxvit_tiny_tf_224", "tiny_vit_5m_224"])
def test_an_unknown_fused_layout_is_refused(name):
    with pytest.raises(ValueError, match=r"order of query, key and value .* is not known.*name them by pattern"):
        SDLoRAModel(timm.create_model(name))


def test_no_matching_layer():
    with pytest.raises(ValueError, match=r"has no attention block.*by pattern, for instance '0'"):
        SDLoRAModel(mlp())


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 1), nn.ModuleDict({"a": nn.Conv2d(3, 4, 1)})])
def test_a_model_without_features(model):
    with pytest.raises(ValueError, match=r"model: .* has no features to classify; expected a timm model"):
        SDLoRAModel(model)
