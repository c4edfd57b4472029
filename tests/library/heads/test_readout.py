"""A head in closed form reads earlier blocks of a vision transformer beside its features."""

import io
import sys

import pytest
import timm
import torch
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, load_model, merge, save_adapters
from avalanche_sdlora.heads.drift import Frame
from avalanche_sdlora.heads.readout import parts_of_readout
from avalanche_sdlora.heads.trial import followed
from avalanche_sdlora.persistence import adapter_files

WITH_CLASS_TOKEN = [{}, {"global_pool": "avg"}, {"distilled": True}]
POOLS = [*WITH_CLASS_TOKEN, {"class_token": False, "global_pool": "avg"}]


def backbone(depth=8, distilled=False, **settings):
    name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    torch.manual_seed(0)
    settings |= {"img_size": 32, "embed_dim": 12, "num_heads": 2, "num_classes": 0}
    return timm.create_model(name, depth=depth, **settings).eval()


def model_of(config=None, learned=True, **settings):
    model = SDLoRAModel(backbone(**settings), config or SDLoRAConfig(rank=2, expansion=20)).eval()
    if learned:
        x, y = torch.randn(24, 3, 32, 32), torch.arange(24) % 3
        model.begin_experience({0: [0, 1, 2]})
        readings = model.readings(x).detach()
        model.closed_form.remember([readings])
        model.closed_form.learn([(readings, y)], 3)
        model.end_experience()
    return model


@pytest.mark.parametrize("settings", POOLS)
def test_features_come_first_and_then_tokens_of_blocks_at_half_three_quarters_and_the_whole_depth(settings):
    model, x = model_of(learned=False, **settings), torch.randn(2, 3, 32, 32)
    vit, seen = model.backbone, {}
    for i in (3, 5, 7):
        vit.blocks[i].register_forward_hook(lambda module, args, output, i=i: seen.__setitem__(i, output))
    with torch.no_grad():
        *parts, last = model.readings(x).split(12, dim=1)
        torch.testing.assert_close(parts[0], vit(x))
        assert len(parts) + 1 == parts_of_readout(vit)
        norm = nn.Sequential(vit.norm, vit.fc_norm)
        prefix = vit.num_prefix_tokens
        expected = []
        for i in (3, 5, 7):
            expected += [norm(seen[i][:, 0])] if prefix and (i < 7 or vit.global_pool == "avg") else []
            expected += [norm(seen[i][:, prefix:].mean(1))] if i < 7 or vit.global_pool == "token" else []
        for found, block in zip([*parts[1:], last], expected, strict=True):
            torch.testing.assert_close(found, block)


@pytest.mark.parametrize("settings", POOLS)
def test_a_merged_network_gives_the_logits_with_nothing_of_this_package_in_it(settings):
    model, x = model_of(**settings), torch.randn(4, 3, 32, 32)
    plain = merge(model)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
    own = {name for name in sys.modules if name.startswith("avalanche_sdlora")}
    assert not {type(module).__module__ for module in plain.modules()} & own
    file = io.BytesIO()
    torch.save(plain, file)
    assert b"avalanche_sdlora" not in file.getvalue()
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), plain(x))


def test_the_adapters_are_in_what_is_read():
    model, x = model_of(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model.readings(x)
        for projection, _ in model._projections().values():
            projection.B.normal_()
        assert (model.readings(x) - before).split(12, dim=1)[1].abs().max() > 1e-3  # the first block that is read


@pytest.mark.parametrize("readout", ["features", "layers"])
def test_a_file_knows_what_its_head_reads(tmp_path, readout):
    model, x = model_of(SDLoRAConfig(rank=2, expansion=20, readout=readout)), torch.randn(2, 3, 32, 32)
    save_adapters(model, tmp_path / "a.safetensors")
    torch.testing.assert_close(load_model(tmp_path / "a.safetensors", backbone())(x), model(x))


def test_a_head_from_before_there_was_a_choice_reads_features(tmp_path, monkeypatch):
    model, x = model_of(SDLoRAConfig(rank=2, expansion=20, readout="features")), torch.randn(2, 3, 32, 32)

    def older(config):
        settings = vars(config).copy()
        del settings["readout"]
        return settings

    with monkeypatch.context() as patch:
        patch.setattr(adapter_files.SDLoRAConfig, "to_dict", older)
        save_adapters(model, tmp_path / "a.safetensors")
    torch.testing.assert_close(load_model(tmp_path / "a.safetensors", backbone())(x), model(x))


def test_other_backbones_are_read_by_their_features_unless_layers_are_asked_for():
    few, layers = backbone(depth=3), SDLoRAConfig(rank=2, readout="layers")
    with pytest.raises(ValueError, match=r"readout='layers': needs a VisionTransformer of timm with at least four bl"):
        SDLoRAModel(few, layers)
    model = SDLoRAModel(few, SDLoRAConfig(rank=2)).eval()  # left as it was
    assert model.readings(torch.randn(2, 3, 32, 32)).shape == (2, 12)


def test_parts_that_move_each_in_its_own_way_keep_their_coordinates():
    torch.manual_seed(0)
    before = torch.randn(40, 12, dtype=torch.float64)
    maps = [torch.eye(4, dtype=torch.float64) + 0.3 * torch.randn(4, 4, dtype=torch.float64) for _ in range(3)]
    after = torch.cat([x @ W.T + i for i, (x, W) in enumerate(zip(before.chunk(3, 1), maps))], dim=1)
    frame = followed(Frame(12, parts=3), before, after)
    torch.testing.assert_close(frame(after), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after @ frame.matrix().T + frame.bias, frame(after))
