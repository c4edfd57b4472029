"""Exported models, loaded back with the libraries they are meant for."""

import json

import pytest
import timm
import torch
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, export_peft, merge
from avalanche_sdlora.ranks import RankSchedule
from tests.common import adapted_mlp, learn_something, mlp, snapshot, tiny_vit

MODELS = {
    "ViT": ("vit_tiny_patch16_224", {}),
    "DeiT, two heads": ("deit_tiny_distilled_patch16_224", {}),
    "SigLIP, attention pooling": ("vit_base_patch16_siglip_224", {}),
    "DINOv3": ("vit_small_patch16_dinov3", {}),
    "BEiT, weight read directly": ("beit_base_patch16_224", {}),
    "Swin": ("swin_tiny_patch4_window7_224", {"patch_size": 4, "depths": (1, 1), "num_heads": (2, 2), "depth": None}),
}
X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def backbone(kind="ViT"):
    name, more = MODELS[kind]
    kwargs = {"num_classes": 5, **more}
    if "depth" in more:
        kwargs |= {"window_size": 4}
        del kwargs["depth"]
        torch.manual_seed(0)
        return timm.create_model(name, img_size=32, embed_dim=24, **kwargs)
    return tiny_vit(name, **kwargs)


def learned(kind="ViT", config=None, experiences=3):
    model = SDLoRAModel(backbone(kind), config or SDLoRAConfig(rank=2))
    for k in range(experiences):
        model.begin_experience({0: [3 * k, 3 * k + 1]})  # every third label is never seen
        learn_something(model)
    return model.eval()


@pytest.mark.parametrize("kind", MODELS)
def test_a_merged_model_is_plain_and_gives_the_same_logits(kind):
    model = learned(kind)
    before, plain = snapshot(model), merge(model)
    assert type(plain) is type(backbone(kind))
    assert not [m for m in plain.modules() if type(m).__module__.startswith("avalanche")]
    with torch.no_grad():
        expected, got = model(X), plain(X)
    assert got.shape == expected.shape == (4, 8)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not plain.training
    assert all(p.requires_grad for p in plain.parameters())


def test_other_modules_become_a_backbone_with_a_head():
    model = adapted_mlp().eval()
    plain, x = merge(model), torch.randn(3, 8)
    assert isinstance(plain.head, nn.Linear)
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        SDLoRAConfig(rank=2),
        SDLoRAConfig(rank=RankSchedule(((1, 4), (2, 2)), depth=(0.5, 1.5))),
        SDLoRAConfig(rank=3, targets=("blocks.*.mlp.fc1", "blocks.1.attn.qkv:v")),
        SDLoRAConfig.reference(rank=2),
    ],
    ids=["plain", "ranks differ", "whole layers", "reference"],
)
def test_peft_loads_the_same_features(config, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = learned(config=config)
    export_peft(model, tmp_path / "lora")
    plain = backbone()
    plain.reset_classifier(0)
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path / "lora")).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), model.features(X), rtol=0, atol=1e-5)
        assert not torch.allclose(loaded(X), loaded.unload()(X), atol=1e-2)


@pytest.mark.slow
def test_peft_leaves_out_layers_without_directions(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = learned(experiences=1)
    for projection in model.backbone.blocks[0].attn.qkv.projections:
        for name, t in projection.state_dict().items():
            projection.replace(name, t[:, :0] if name.endswith("B") else t[:0])
    export_peft(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == r"blocks\.1\.attn\.qkv"
    plain = backbone()
    plain.reset_classifier(0)
    loaded = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), model.features(X), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnxruntime_gives_the_same_logits(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model, path = learned(), str(tmp_path / "model.onnx")
    torch.onnx.export(merge(model), (X,), path, dynamo=True, dynamic_shapes=({0: "n"},), verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = [i.name for i in session.get_inputs()]
    with torch.no_grad():
        for x in (X, X[:3]):
            (logits,) = session.run(None, {name: x.numpy()})
            torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-5, atol=1e-4)


def test_what_cannot_be_exported_is_refused(tmp_path):
    fresh, many = SDLoRAModel(mlp(), SDLoRAConfig(rank=2, targets="*")), adapted_mlp(experiences=0)
    many.head.multi_head = True
    many.begin_experience({0: [0, 1], 1: [0, 1]})
    with pytest.raises(ValueError, match="has seen no classes"):
        merge(fresh)
    with pytest.raises(ValueError, match="no task labels, but task_labels=None"):
        merge(many)
    with pytest.raises(ValueError, match="has no directions yet"):
        export_peft(fresh, tmp_path / "lora")
    with pytest.raises(ValueError, match=r"reads the weight of 'blocks\.0\.attn\.qkv' without calling"):
        export_peft(learned("BEiT, weight read directly"), tmp_path / "lora")
    assert not list(tmp_path.iterdir())
