"""Attention in all its layouts: torch's own, and fused by thirds or halves."""

import logging

import pytest
import timm
import torch
import torchvision
from timm.models import (
    coat,
    convit,
    davit,
    edgenext,
    fastvit,
    hiera,
    hieradet_sam2,
    mvitv2,
    nest,
    pvt_v2,
    swin_transformer_v2_cr,
    twins,
    volo,
    xcit,
)
from timm.models import vision_transformer_sam as sam
from torch import nn
from torchvision.models import swin_transformer as tv_swin

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, export_peft, load_adapters, merge, save_adapters
from avalanche_sdlora.adapter.functional import merged_weight
from avalanche_sdlora.adapter.layouts import blocks
from avalanche_sdlora.adapter.targets import find_targets
from avalanche_sdlora.persistence.fingerprint import fingerprint
from tests.common import learn_something, shake

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
QV = SDLoRAConfig(rank=2)


def vit(seed=0):
    torch.manual_seed(seed)
    settings = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
    return shake(torchvision.models.VisionTransformer(**settings, num_classes=5), 0.1)


def adapted(experiences=2, config=QV):
    model = SDLoRAModel(vit(), config)
    for k in range(experiences):
        model.begin_experience({0: [k]})
        learn_something(model)
    return model.eval()


def dense(model):
    """The plain network with the weights in force."""
    plain = vit()
    plain.heads = nn.Identity()
    for name, adapter in model._adapters.items():
        parent, _, last = name.rpartition(".")
        owner = plain.get_submodule(parent)
        weight = owner.in_proj_weight if last == "in_proj" else owner.get_submodule(last).weight
        weight.data = merged_weight(adapter.base.weight, adapter.updates())
    return plain.eval()


@pytest.mark.parametrize("more", [(), ("*.out_proj", "*.mlp.0")])
def test_the_attention_of_torch_is_adapted_exactly(more):
    plain = vit().eval()
    plain.heads = nn.Identity()
    config = SDLoRAConfig(rank=2, targets=("attention.qv", *more))
    torch.testing.assert_close(adapted(0, config).features(IMAGES), plain(IMAGES))
    model = adapted(2, config)
    reference = dense(model)
    with torch.no_grad():  # torch's fast path
        torch.testing.assert_close(model.features(IMAGES), reference(IMAGES), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model.features(IMAGES), plain(IMAGES), atol=1e-2)
    for training in (True, False):
        model.train(training)
        reference.zero_grad()
        ours = torch.autograd.grad(model.features(IMAGES).square().sum(), model.trainable_groups()["directions"])
        reference(IMAGES).square().sum().backward()
        expected = []
        for name, adapter in model._adapters.items():
            if name.endswith("in_proj"):
                dW = reference.get_submodule(name[: -len(".in_proj")]).in_proj_weight.grad
            else:
                dW = reference.get_submodule(name).weight.grad
            for u in adapter.updates():
                g, c = dW[u.start : u.stop], u.c[len(u.bank_A) :, None]
                expected += [c * (u.B.T @ g), (c * (u.A @ g.T)).T]
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_attention_of_torch_is_saved_merged_and_given_back(tmp_path):
    model, fresh, plain = adapted(), adapted(0), vit().eval()
    assert [t.rows for t in find_targets(plain, ["attention.qv"], 2)] == [[(0, 24), (48, 72)]] * 2
    save_adapters(model, tmp_path / "f")
    load_adapters(fresh, tmp_path / "f")
    assert torch.equal(fresh(IMAGES), model(IMAGES))
    alone = SDLoRAModel(vit(), SDLoRAConfig(targets=()))
    assert fingerprint(model) == fingerprint(alone)  # by the names of the plain network
    merged = merge(model)
    assert not [m for m in merged.modules() if type(m).__module__.startswith("avalanche")]
    with torch.no_grad():
        torch.testing.assert_close(merged(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"reads the weight of '.*in_proj' without calling"):
        export_peft(model, tmp_path / "lora")
    back = model.unload()
    back.heads = plain.heads
    assert back.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(back(IMAGES), plain(IMAGES))


def test_the_encoder_layer_of_torch_trains_and_evaluates():
    class Encoder(nn.Module):
        num_features = 16

        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x):
            return self.encoder(x).mean(1)

    torch.manual_seed(0)
    model, x = (
        SDLoRAModel(Encoder(), SDLoRAConfig(rank=2, targets=("attention.qv", "*.linear1"))),
        torch.randn(2, 5, 16),
    )
    model.begin_experience({0: [0]})
    learn_something(model).eval()
    expected = model.features(x)
    with torch.no_grad():
        torch.testing.assert_close(model.features(x), expected, rtol=1e-4, atol=1e-5)


X = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))  # 16 tokens, 8 channels
GRID = X.reshape(2, 4, 4, 8)


def of(make, *inputs):
    return lambda: (shake(make()).eval(), inputs)


TOKENS = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(0))  # the first is a class token


LAYOUTS = {
    "coat": of(
        lambda: coat.FactorAttnConvRelPosEnc(8, 2, shared_crpe=coat.ConvRelPosEnc(4, 2, {3: 2})), TOKENS, (4, 4)
    ),
    "convit": of(lambda: convit.MHSA(8, 2), X),
    "convit, gated": of(lambda: convit.GPSA(8, 2), X),
    "davit channels": of(lambda: davit.ChannelAttention(8, 2), X),
    "davit channels, v2": of(lambda: davit.ChannelAttentionV2(8, 2), X),
    "davit windows": of(lambda: davit.WindowAttention(8, (4, 4), 2), X),
    "edgenext": of(lambda: edgenext.CrossCovarianceAttn(8, 2), X),
    "fastvit": of(lambda: fastvit.Attention(8, 4), X.transpose(1, 2).reshape(2, 8, 4, 4)),
    "hiera windows": of(lambda: hiera.MaskUnitAttention(8, 8, 2, window_size=4, use_mask_unit_attn=True), X),
    "hiera global": of(lambda: hiera.MaskUnitAttention(8, 8, 2), X),
    "mvit": of(lambda: mvitv2.MultiScaleAttention(8, 8, (4, 4), 2), TOKENS, (4, 4)),
    "nest": of(lambda: nest.Attention(8, 2), X[:, None]),
    "twins local": of(lambda: twins.LocallyGroupedAttn(8, 2, ws=2), X, (4, 4)),
    "twins global": of(lambda: twins.GlobalSubSampleAttn(8, 2, sr_ratio=2), X, (4, 4)),
    "pvt": of(lambda: pvt_v2.Attention(8, 2, sr_ratio=2), X, (4, 4)),
    "sam": of(lambda: sam.Attention(8, 2), GRID),
    "sam 2": of(lambda: hieradet_sam2.MultiScaleAttention(8, 8, 2), GRID),
    "swin v2 cr": of(lambda: swin_transformer_v2_cr.WindowMultiHeadAttention(8, 2, (4, 4)), X),
    "volo": of(lambda: volo.Attention(8, 2), GRID),
    "volo class": of(lambda: volo.ClassAttention(8, 2), X),
    "xcit": of(lambda: xcit.XCA(8, 2), X),
    "torchvision swin": of(lambda: tv_swin.ShiftedWindowAttention(8, [4, 4], [0, 0], 2), GRID),
    "torchvision swin v2": of(lambda: tv_swin.ShiftedWindowAttentionV2(8, [4, 4], [0, 0], 2), GRID),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_output_is_linear_in_the_rows_called_value_and_in_no_other(kind):
    torch.manual_seed(0)
    module, inputs = LAYOUTS[kind]()

    linear, other = ("q", "v") if kind == "davit channels" else ("v", "q")  # of softmax(k^T v) q^T: linear in q

    def output():
        out = module(*inputs)
        return out[0] if isinstance(out, tuple) else out

    def scaled(letter, factor):
        out = []
        for name, rows in blocks(module, letter).items():
            layer = module.get_submodule(name)
            for start, stop in rows:
                layer.weight[start:stop] *= factor
                if layer.bias is not None:
                    layer.bias[start:stop] *= factor
            out.append(name)
        assert out
        return output()

    one = output()
    three, zero = scaled(linear, 3.0), scaled(linear, 0.0)
    torch.testing.assert_close(three - zero, 3 * (one - zero), rtol=1e-3, atol=1e-4)
    for letter in ("k",) if kind == "coat" else (other, "k"):  # CoaT's q (softmax(k)^T v) is linear in both
        module, inputs = LAYOUTS[kind]()
        one, three, zero = output(), scaled(letter, 3.0), scaled(letter, 0.0)
        assert not torch.allclose(three - zero, 3 * (one - zero), rtol=1e-3, atol=1e-4)


def small(name, **kwargs):
    torch.manual_seed(0)
    return shake(timm.create_model(name, **kwargs), 0.05)


FAMILIES = {
    "xcit": lambda: small("xcit_nano_12_p16_224", embed_dim=16, depth=1, num_heads=2),
    "hiera": lambda: small("hiera_tiny_224", img_size=64, embed_dim=16, num_heads=1, stages=(1, 1), q_pool=1),
    "mvit": lambda: mvitv2.MultiScaleVit(mvitv2.MultiScaleVitCfg(depths=(1, 1), embed_dim=(8, 16)), (64, 64)),
    "davit": lambda: small("davit_tiny", depths=(1, 1), embed_dims=(16, 32), num_heads=(2, 2)),
    "twins": lambda: small(
        "twins_svt_small", img_size=64, embed_dims=(8, 8, 8, 8), depths=(2, 2, 1, 1), num_heads=(1,) * 4
    ),
    "pvt": lambda: small("pvt_v2_b0", embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    "swin of torchvision": lambda: shake(tv_swin.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]), 0.05),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_further_families_learn_and_merge(name):
    model, x = SDLoRAModel(FAMILIES[name](), QV), torch.randn(2, 3, 64, 64)
    model.begin_experience({0: [0]})
    before = model.eval().features(x)
    learn_something(model)
    features = model.features(x)
    assert not torch.allclose(features, before, atol=1e-3)
    features.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.trainable_groups()["directions"])
    with torch.no_grad():
        torch.testing.assert_close(merge(model)(x), model(x), rtol=1e-3, atol=1e-3)


def test_attention_that_stays_as_it_is_beside_adapted_blocks_is_named_once(caplog):
    with caplog.at_level(logging.WARNING, logger="avalanche_sdlora"):
        SDLoRAModel(
            timm.create_model("vit_base_patch16_siglip_224", img_size=32, embed_dim=24, depth=1, num_heads=2), QV
        )
    (record,) = caplog.records
    assert "1 attention blocks of VisionTransformer stay unadapted" in record.message
    assert "'attn_pool'" in record.message
    caplog.clear()
    SDLoRAModel(vit(), QV)
    assert not caplog.records
