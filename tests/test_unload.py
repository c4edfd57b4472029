"""A backbone can be given back, is not adapted twice, and a refused construction leaves it as it was."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, merge
from tests.common import MLP, adapted_mlp, learn_something, mlp, tiny_vit

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
QV = SDLoRAConfig(rank=2)


def torchvision_vit():
    torch.manual_seed(0)
    settings = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
    return torchvision.models.VisionTransformer(**settings, num_classes=5)


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 2))


BACKBONES = {"timm": (tiny_vit, QV), "torchvision": (torchvision_vit, QV), "sequential": (sequential, MLP)}


def layout(model):
    return (
        [(name, type(m)) for name, m in model.named_modules()],
        [(name, id(p), p.requires_grad) for name, p in model.named_parameters()],
        {name: getattr(model, name, None) for name in ("num_classes", "global_pool")},
    )


@pytest.mark.parametrize("kind", BACKBONES)
def test_unload_gives_the_plain_backbone_which_can_be_adapted_again(kind):
    make, config = BACKBONES[kind]
    backbone = make()
    frozen = next(p for p in backbone.parameters())
    frozen.requires_grad_(False)
    model = SDLoRAModel(backbone, config)
    before = model.eval().features(IMAGES)
    model.begin_experience({0: [0, 1]})
    assert not torch.allclose(learn_something(model, 1.0).features(IMAGES), before, atol=1e-3)
    plain = model.unload()
    assert plain is backbone
    assert not [m for m in plain.modules() if type(m).__module__.startswith("avalanche")]
    torch.testing.assert_close(plain(IMAGES), before)
    assert [p for p in plain.parameters() if not p.requires_grad] == [frozen]
    torch.testing.assert_close(SDLoRAModel(plain, config).eval().features(IMAGES), before)


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m(torch.zeros(1, 8)),
        lambda m: m.begin_experience({0: [9]}),
        lambda m: m.eval(),
        lambda m: list(m.parameters()),
        lambda m: m.trainable_groups(),
        lambda m: m.unload(),
        merge,
    ],
)
def test_a_model_without_its_backbone_refuses_to_be_used(use):
    model = adapted_mlp()
    model.unload()
    with pytest.raises(RuntimeError, match=r"unload\(\) has taken the backbone out"):
        use(model)


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_adapted_backbone_is_not_adapted_again(kind):
    make, config = BACKBONES[kind]
    backbone = make()
    model = SDLoRAModel(backbone, config)
    before = layout(backbone)
    with pytest.raises(ValueError, match=r"is adapted already.*model.unload\(\)"):
        SDLoRAModel(backbone, config)
    assert layout(backbone) == before
    model.features(IMAGES)


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("config", [SDLoRAConfig(targets="no.such.layer"), SDLoRAConfig(rank=4000, targets="*")])
def test_a_refused_construction_leaves_the_backbone_as_it_was(kind, config):
    backbone = BACKBONES[kind][0]().eval()
    list(backbone.parameters())[-1].requires_grad_(False)
    before, expected = layout(backbone), backbone(IMAGES)
    with pytest.raises(ValueError, match=r"targets=|rank="):
        SDLoRAModel(backbone, config)
    assert layout(backbone) == before
    assert torch.equal(backbone(IMAGES), expected)


def test_an_error_late_in_the_construction_is_undone_too(monkeypatch):
    backbone = torchvision_vit().eval()
    before, expected = layout(backbone), backbone(IMAGES)
    placed = []

    def fails(model, name, layer):
        from avalanche_sdlora.attention import put_layer

        if placed:
            raise MemoryError
        placed.append(put_layer(model, name, layer))

    monkeypatch.setattr("avalanche_sdlora.model.put_layer", fails)
    with pytest.raises(MemoryError):
        SDLoRAModel(backbone, QV)
    assert layout(backbone) == before
    assert torch.equal(backbone(IMAGES), expected)


def test_a_copy_can_be_unloaded_while_the_model_goes_on():
    model = SDLoRAModel(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1), QV)
    copy.deepcopy(model).unload()
    model.features(IMAGES)


def test_mlp_still_learns_after_a_refusal():
    backbone = mlp()
    with pytest.raises(ValueError, match="matches no"):
        SDLoRAModel(backbone, SDLoRAConfig(targets="blocks.*"))
    assert SDLoRAModel(backbone, MLP).head.in_features == 16
