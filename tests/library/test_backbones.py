import socket

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from avalanche_sdlora.backbones import MICRO_WEIGHTS, create_backbone, drop_patches
from tests.common import tiny_vit

NAME = "vit_micro_patch4_32.formula"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def micro():
    return create_backbone(NAME).eval()


def test_bundled_weights_load_offline_through_timm(offline):
    model = timm.create_model(NAME, pretrained=True, num_classes=0).eval()
    stored = load_file(MICRO_WEIGHTS)
    state = model.state_dict()
    assert state.keys() == stored.keys()
    assert all(state[k].dtype == torch.float32 and torch.equal(state[k], stored[k].float()) for k in stored)
    x = torch.rand(2, 3, 32, 32)
    features = model(x)
    assert features.shape == (2, model.num_features)
    assert features.isfinite().all()
    assert torch.equal(features, create_backbone(NAME).eval()(x))
    assert timm.create_model(NAME, pretrained=True, num_classes=7)(x).shape == (2, 7)


def test_bundled_weights_are_small_and_configured(micro):
    assert MICRO_WEIGHTS.stat().st_size <= 3 * 2**20
    config = timm.data.resolve_data_config(model=micro)
    assert config["input_size"] == (3, 32, 32)
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    assert config["interpolation"] == "bilinear"
    assert all(isinstance(block.attn.qkv, torch.nn.Linear) for block in micro.blocks)


def test_image_size_resamples_positions(micro):
    larger = create_backbone(NAME, img_size=48).eval()
    assert larger.pos_embed.shape[1] == 144
    assert torch.equal(larger.blocks[0].attn.qkv.weight, micro.blocks[0].attn.qkv.weight)
    assert larger(torch.rand(1, 3, 48, 48)).isfinite().all()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("num_classes", [0, 5])
def test_weights_file_gives_the_model_that_was_saved(tmp_path, suffix, num_classes):
    saved = timm.create_model("vit_micro_patch4_32", num_classes=num_classes).eval()
    path = tmp_path / f"weights.{suffix}"
    save_file(saved.state_dict(), path) if suffix == "safetensors" else torch.save(saved.state_dict(), path)
    model = create_backbone(NAME, weights=path).eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(x), saved.forward_head(saved.forward_features(x), pre_logits=True))
    assert model.num_classes == 0
    assert create_backbone(NAME, weights=path, img_size=40).pos_embed.shape[1] == 100


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("vit_micro_patch4_23", {}, r"name='vit_micro_patch4_23'.*did you mean vit_micro_patch4_32"),
        ("zzzzqqqq", {}, r"no architecture 'zzzzqqqq'; timm.list_models\(\)"),
        ("vit_micro_patch4_32.fractal", {}, r"no pretrained tag 'fractal'; its tags: formula\."),
        ("vit_micro_patch4_32.fractal", {"pretrained": False}, r"no pretrained tag 'fractal'"),
        ("vit_tiny_patch16_384", {"img_size": 0}, r"img_size=0 must be at least 1"),
        (NAME, {"img_size": 30}, r"img_size=30 is not divisible by the patch size 4 .*28 or 32"),
        ("resnet18", {"img_size": 64}, r"img_size=64 is not accepted by resnet18"),
        (NAME, {"pretrained": False, "weights": "w.pt"}, r"weights='w.pt' contradicts pretrained=False"),
        ("vit_base_patch16_18x2_224", {}, r"has no pretrained weights; pass weights="),
    ],
)
def test_wrong_argument_is_named(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, **kwargs)


def test_missing_weights_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights='.*absent\.pt': there is no such file"):
        create_backbone(NAME, weights=tmp_path / "absent.pt")


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_weights_file_that_does_not_fit(tmp_path, capsys):
    state = timm.create_model("vit_micro_patch4_32", num_classes=5).state_dict()
    incomplete = {k: v for k, v in state.items() if k != "blocks.2.norm1.weight"}
    torch.save(incomplete, tmp_path / "incomplete.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    torch.save({**state, "blocks.0.attn.qkv.weight": torch.zeros(9, 9)}, tmp_path / "shape.pt")
    torch.save({"state_dict": Payload()}, tmp_path / "pickle.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"does not fit name=.*blocks\.2\.norm1\.weight"):
        create_backbone(NAME, weights=tmp_path / "incomplete.pt")
    with pytest.raises(ValueError, match=r"does not fit name=.*pos_embed"):
        create_backbone(NAME, weights=tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"does not fit name=.*blocks\.0\.attn\.qkv\.weight"):
        create_backbone(NAME, weights=tmp_path / "shape.pt")
    for unreadable in ("pickle.pt", "broken.safetensors"):
        with pytest.raises(ValueError, match=r"is not readable as weights"):
            create_backbone(NAME, weights=tmp_path / unreadable)
    assert capsys.readouterr().out == ""


def test_failed_download_names_the_way_out(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(RuntimeError, match=r"could not be downloaded.*no route to host.*weights="):
        create_backbone("vit_tiny_patch16_224.augreg_in21k")


def test_dropped_patches_are_missed_in_training_alone():
    model = tiny_vit(num_classes=0, img_size=64)
    tokens = []
    model.blocks[0].register_forward_hook(lambda block, inputs, output: tokens.append(output.shape[1]))
    x = torch.randn(2, 3, 64, 64)
    whole = model.eval()(x)
    drop_patches(model, 0.5)
    assert torch.equal(model.eval()(x), whole)
    first, second = model.train()(x), model(x)
    assert tokens == [17, 17, 9, 9]
    assert not torch.equal(first, second)
    assert model.state_dict().keys() == tiny_vit(num_classes=0, img_size=64).state_dict().keys()
    drop_patches(model, 0)
    assert torch.equal(model(x), whole)
    for other, share in ((torch.nn.Linear(1, 1), 0.5), (model, 1.0), (model, -0.1)):
        with pytest.raises(ValueError, match="patch_drop="):
            drop_patches(other, share)
