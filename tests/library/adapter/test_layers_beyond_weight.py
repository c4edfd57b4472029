"""What a layer does beyond ``x W^T + b`` is refused by name or kept, never dropped in silence."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, load_adapters, merge, save_adapters
from avalanche_sdlora.persistence.fingerprint import fingerprint
from tests.common import MLP, learn_something, mlp, snapshot

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OnlyAnotherName(nn.Linear):
    pass


def with_forward(layer):
    layer.forward = functools.partial(nn.functional.linear, weight=layer.weight)


CHANGES = {
    "forward of its own": lambda m: m.__setitem__(0, Doubled(8, 16)),
    "forward replaced": lambda m: with_forward(m[0]),
    "parametrization": lambda m: parametrizations.orthogonal(m[0]),
    "has hooks": lambda m: m[0].register_forward_hook(lambda module, args, output: output + 1),
    "has hooks;": lambda m: m[0].register_forward_pre_hook(lambda module, args: None),
    "has hooks; remove": lambda m: m[0].register_full_backward_hook(lambda module, i, o: None),
    "hooks": lambda m: nn.utils.weight_norm(m[0]),
}


@pytest.mark.parametrize("said", CHANGES)
def test_more_than_a_weight_is_refused_by_name_and_nothing_has_changed(said):
    model = mlp()
    CHANGES[said](model)
    before, expected = list(model.named_modules()), model(X)
    with pytest.raises(ValueError, match=f"layer '0' .*{said}.*or name other targets"):
        SDLoRAModel(model, MLP)
    assert list(model.named_modules()) == before
    assert torch.equal(model(X), expected)
    SDLoRAModel(model, SDLoRAConfig(rank=2, targets="2"))  # the other layer is plain


def test_a_subclass_without_a_forward_and_hooks_on_the_adapter_work():
    model = mlp()
    model[0] = OnlyAnotherName(8, 16)
    expected = copy.deepcopy(model)[:4](X) + 1
    adapted = SDLoRAModel(model, MLP)
    adapted.backbone[3].register_forward_hook(lambda module, args, output: output + 1)
    torch.testing.assert_close(adapted.features(X), expected)


class Shared(nn.Module):
    num_features = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.block_again = self.block

    def forward(self, x):
        return self.block_again(self.again(self.block(self.first(x)).relu()))


def shared(seed, experiences):
    torch.manual_seed(seed)
    model = SDLoRAModel(Shared(), MLP)
    for k in range(experiences):
        model.begin_experience({0: [k]})
        learn_something(model)
    return model.eval()


def test_a_layer_under_two_names_is_adapted_in_both_and_saved_and_merged(tmp_path):
    plain = Shared()
    before = plain(X)
    model = SDLoRAModel(plain, MLP)
    mark = fingerprint(model)
    torch.testing.assert_close(model.features(X), before)
    assert model.backbone.first is model.backbone.again is not model.backbone.block[0]
    assert len(model.trainable_groups()["directions"]) == 0 == len(model.magnitudes)

    model, fresh = shared(0, 2), shared(0, 0)
    assert fingerprint(model) == fingerprint(fresh) != mark
    save_adapters(model, tmp_path / "f")
    load_adapters(fresh, tmp_path / "f")
    assert torch.equal(fresh(X), model(X))
    plain = merge(model)
    torch.testing.assert_close(plain(X), model(X))
    assert plain.backbone.first is plain.backbone.again
    assert not torch.allclose(model.features(X), shared(0, 0).features(X), atol=1e-2)


def test_layers_skipped_at_random_in_training_are_no_error_but_idle_ones_are():
    class Skips(nn.Module):
        num_features = 8

        def __init__(self, idle):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3 + idle))
            self.idle = idle

        def forward(self, x):
            for layer in self.layers[: len(self.layers) - self.idle]:
                if not self.training or torch.rand(()) < 0.5:
                    x = layer(x)
            return x

    model = SDLoRAModel(Skips(idle=0), MLP).train()
    torch.manual_seed(0)
    seen = {model.features(X).sum().item() for _ in range(20)}
    assert len(seen) > 1
    assert all(m.training for m in model.modules())
    with pytest.raises(RuntimeError, match=r"1 of 4 adapted layers took no part.*'layers.3'"):
        SDLoRAModel(Skips(idle=1), MLP).train().features(X)


def test_the_trial_of_skipped_layers_draws_no_random_numbers_of_the_run():
    class Never(nn.Module):
        num_features = 8

        def __init__(self):
            super().__init__()
            self.used, self.skipped = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            if not self.training:
                x = self.skipped(x) + torch.randn(())
            return self.used(x)

    model = SDLoRAModel(Never(), MLP).train()
    state = torch.get_rng_state()
    model.features(X)
    assert torch.equal(torch.get_rng_state(), state)


class Checkpointed(nn.Module):
    num_features = 16

    def __init__(self, reentrant):
        super().__init__()
        self.body, self.reentrant = mlp()[:4], reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


def test_reentrant_checkpointing_is_refused_and_the_other_is_exact():
    def model(reentrant):
        model = SDLoRAModel(Checkpointed(reentrant), MLP)
        torch.manual_seed(1)
        model.begin_experience({0: [0]})
        return learn_something(model)

    gradients = []
    for reentrant in (None, False):
        m = model(reentrant)
        m.features(X).square().sum().backward()
        gradients.append([p.grad for p in m.trainable_groups()["directions"]])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        model(True).features(X)
    with torch.no_grad():
        assert torch.equal(model(True).features(X), model(None).features(X))


@pytest.mark.slow
def test_a_compiled_wrapper_and_an_adapted_model_are_refused_with_the_way_that_works():
    with pytest.raises(TypeError, match=r"torch.compile has wrapped the Sequential.*module.compile\(\)"):
        SDLoRAModel(torch.compile(mlp()), MLP)
    with pytest.raises(TypeError, match=r"is an SDLoRAModel already.*unload\(\)"):
        SDLoRAModel(SDLoRAModel(mlp(), MLP), MLP)


def test_frozen_weights_stay_as_they_were():
    model = mlp()
    before = snapshot(model)
    adapted = SDLoRAModel(model, MLP)
    adapted.begin_experience({0: [0]})
    learn_something(adapted)
    assert torch.equal(model[0].base.weight, before["0.weight"])
