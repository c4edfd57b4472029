"""Backbones of any floating type: what is learned stays in float32 or wider."""

import copy

import pytest
import torch
import torch.nn.functional as F

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, load_adapters, merge, save_adapters
from avalanche_sdlora.growing import GrowingModule
from tests.common import BFLOAT16, learn_something, tiny_vit

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])
MAKE = {
    "double before": lambda c: SDLoRAModel(tiny_vit().double(), c),
    "double after": lambda c: SDLoRAModel(tiny_vit(), c).double(),
    "half before": lambda c: SDLoRAModel(tiny_vit().half(), c),
    "half after": lambda c: SDLoRAModel(tiny_vit(), c).half(),
    "bfloat16": lambda c: SDLoRAModel(tiny_vit(), c).to(torch.bfloat16),
    "BEiT, half": lambda c: SDLoRAModel(tiny_vit("beit_base_patch16_224").half(), c),
    "BEiT, double": lambda c: SDLoRAModel(tiny_vit("beit_base_patch16_224").double(), c),
}


@pytest.mark.parametrize("head", ["linear", "ridge"])
@pytest.mark.parametrize("kind", MAKE)
def test_any_precision_trains_evaluates_merges_and_is_saved(kind, head, tmp_path):
    if kind == "bfloat16" and not BFLOAT16:
        pytest.skip("this machine has no bfloat16")
    config = SDLoRAConfig(rank=2, head=head)
    model, fresh = MAKE[kind](config), MAKE[kind](config)
    wide = torch.float64 if "double" in kind else torch.float32
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if "double" in kind else {"rtol": 0.1, "atol": 0.1}
    for k in range(2):
        model.begin_experience({0: [2 * k, 2 * k + 1]})
        learn_something(model, 0.1)
        model.train()
        parameters = [p for group in model.trainable_groups().values() for p in group]
        loss = F.cross_entropy(model(IMAGES), LABELS + 2 * k)
        loss.backward()
        torch.optim.SGD(parameters, lr=1e-3).step()
        assert all(p.dtype == p.grad.dtype == wide for p in parameters)
        if model.closed_form is not None:
            model.closed_form.learn([(model.features(IMAGES), LABELS + 2 * k)], 2 * k + 2)
        model.end_experience()
    for part in model.modules():
        if isinstance(part, GrowingModule):
            floating = [t for t in (*part.parameters(), *part.buffers()) if t.is_floating_point()]
            assert all(t.dtype in (wide, torch.float64) for t in floating)
    model.eval()
    with_gradient = model(IMAGES)
    with torch.no_grad():
        logits = model(IMAGES)
    assert logits.dtype == with_gradient.dtype == wide
    torch.testing.assert_close(logits, with_gradient, **tolerance)
    save_adapters(model, tmp_path / "f")
    load_adapters(fresh, tmp_path / "f")
    with torch.no_grad():
        assert torch.equal(fresh.eval()(IMAGES), logits)
        plain = merge(model)
        merged = plain(IMAGES.to(next(plain.parameters()).dtype))
    scale = float(logits[logits > -999].abs().max())
    torch.testing.assert_close(merged.to(wide) / scale, logits / scale, **tolerance)


def test_a_narrow_model_learns_what_the_wide_one_does():
    gradients = []
    for dtype in (torch.float64, torch.float32, torch.float16):
        model = SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=2))
        model.begin_experience({0: [0, 1]})
        learn_something(model, 0.1).to(dtype)
        F.cross_entropy(model(IMAGES), LABELS).backward()
        gradients.append([p.grad.double() for group in model.trainable_groups().values() for p in group])
    for double, single, half in zip(*gradients):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-5)
        assert torch.linalg.norm(half - double) < 0.1 * torch.linalg.norm(double) + 1e-3


def test_what_was_learned_survives_a_narrow_type_and_back():
    model = SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=2))
    model.begin_experience({0: [0, 1]})
    learn_something(model)
    there = copy.deepcopy(model).half().float()
    for name, t in model.magnitudes.state_dict().items():
        assert torch.equal(there.magnitudes.state_dict()[name], t)
    assert torch.equal(there.head.weight, model.head.weight)
