"""What happens to the directions, the magnitudes and the function along a stream of tasks."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from tests.common import MLP, adapted_mlp, bank, learn_something, mlp, snapshot

PAPER, REFERENCE = SDLoRAConfig.paper(rank=2, targets="*"), SDLoRAConfig.reference(rank=2, targets="*")
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [MLP, PAPER, REFERENCE])
def test_a_new_direction_changes_nothing_at_first(config):
    model = SDLoRAModel(mlp(), config)
    before = model.features(X)
    model.begin_experience({0: [0, 1]})
    torch.testing.assert_close(model.features(X), before, rtol=0, atol=1e-6)
    assert all(p.A.abs().sum() > 0 and not p.B.any() for p in projections_of(model))


@pytest.mark.parametrize("magnitudes", ["shared", "per_projection"])
def test_a_continuous_boundary_leaves_the_logits(magnitudes):
    config = SDLoRAConfig(rank=2, targets="*", magnitudes=magnitudes, magnitude_init=0.7)
    model = adapted_mlp(config, experiences=1)
    for k in range(1, 5):
        before = model(X)
        model.begin_experience({0: [2 * k, 2 * k + 1]})
        torch.testing.assert_close(model(X)[:, : 2 * k], before[:, : 2 * k], rtol=0, atol=1e-5)
        learn_something(model)


@pytest.mark.parametrize("config", [PAPER, REFERENCE])
def test_a_published_boundary_jumps_and_says_so(config, caplog):
    model = adapted_mlp(config, experiences=2)
    before = model.features(X)
    with caplog.at_level(logging.INFO, logger="avalanche_sdlora"):
        model.begin_experience({0: [4]})
    assert not torch.allclose(model.features(X), before, atol=1e-2)
    assert "jump" in caplog.text
    assert torch.equal(model.magnitudes.alpha, torch.full((3, 1), config.magnitude_init))


@pytest.mark.parametrize("config", [MLP, PAPER])
def test_frozen_directions_stay_bit_identical(config):
    model = adapted_mlp(config, experiences=1)
    model.begin_experience({0: [2]})
    first = bank(model)
    for k in range(3, 6):
        learn_something(model)
        model.begin_experience({0: [k]})
        assert all(torch.equal(a, b[tuple(map(slice, a.shape))]) for a, b in zip(first, bank(model)))


def test_directions_have_unit_norm():
    product, factors = adapted_mlp(PAPER), adapted_mlp(REFERENCE)
    for p in projections_of(product):
        for k in range(2):
            D = p.bank_B[:, 2 * k : 2 * k + 2] @ p.bank_A[2 * k : 2 * k + 2]
            torch.testing.assert_close(D.norm(), torch.tensor(1.0))
    for p in projections_of(factors):
        torch.testing.assert_close(p.bank_B[:, :2].norm() * p.bank_A[:2].norm(), torch.tensor(1.0))


def test_reference_reproduces_the_published_forward():
    """h = W0 x + sum_k alpha_k B_k A_k x / (||B_k||_F ||A_k||_F) + alpha_t B_t A_t x, branch by branch."""
    model = SDLoRAModel(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2)), REFERENCE)
    base, learned = model.backbone[0].base, []
    for k in range(4):
        model.begin_experience({0: [k]})
        learn_something(model)
        (projection,) = projections_of(model)
        learned.append((projection.A.detach().clone(), projection.B.detach().clone()))
    alpha = model.magnitudes.alpha[:, 0]
    expected = base(X)
    for k, (A, B) in enumerate(learned):
        divisor = B.norm() * A.norm() if k < 3 else 1.0
        expected = expected + alpha[k] * F.linear(F.linear(X, A), B) / divisor
    torch.testing.assert_close(model.features(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [MLP, PAPER, REFERENCE])
def test_a_task_that_taught_nothing_leaves_a_zero_direction(config):
    model = SDLoRAModel(mlp(), config)
    before = model.features(X)
    for k in range(3):
        model.begin_experience({0: [k]})
    model(X).sum().backward()
    torch.testing.assert_close(model.features(X), before)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_only_the_new_direction_magnitudes_and_head_train():
    model = adapted_mlp()
    trainable = {p for group in model.trainable_groups().values() for p in group}
    assert trainable == {p for p in model.parameters() if p.requires_grad}
    before = snapshot(model)
    model(X).square().sum().backward()
    with torch.no_grad():
        for p in trainable:
            p.sub_(p.grad)
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert all("base" not in name and "bank" not in name and "scale" not in name for name in changed)


def test_one_magnitude_per_task_or_one_per_projection():
    assert adapted_mlp(PAPER).magnitudes.alpha.shape == (3, 1)
    assert adapted_mlp(MLP).magnitudes.alpha.shape == (3, 2)


def test_merged_equals_unmerged_and_is_made_once(monkeypatch):
    model = adapted_mlp()
    with_gradient = model(X)
    calls = []
    monkeypatch.setattr("avalanche_sdlora.adapter.linear.merged_weight", lambda *a: calls.append(a) or merge(*a))
    from avalanche_sdlora.adapter.functional import merged_weight as merge

    with torch.no_grad():
        torch.testing.assert_close(model.eval()(X), with_gradient)
        model(X), model(X)
    assert len(calls) == 2  # one for each of the two layers


@pytest.mark.parametrize("change", ["train", "load", "begin", "double"])
def test_a_merged_weight_never_goes_stale(change):
    model, other = adapted_mlp(), adapted_mlp(seed=1)
    x = X
    with torch.no_grad():
        model.eval()(x)
        if change == "train":
            learn_something(model)
        elif change == "load":
            model.load_state_dict(other.state_dict())
        elif change == "begin":
            model.begin_experience({0: [6]})
        else:
            model.double()
            x = x.double()
        merged = model(x)
    torch.testing.assert_close(merged, model(x))


def test_state_dict_restores_any_stage_into_a_fresh_model():
    model = adapted_mlp(experiences=4)
    fresh = SDLoRAModel(mlp(seed=5), MLP)
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(X), model(X))
    for m in (model, fresh):
        torch.manual_seed(2)
        m.begin_experience({0: [8]})
    assert torch.equal(fresh(X), model(X))
    with pytest.raises(RuntimeError, match="size mismatch"):
        SDLoRAModel(nn.Sequential(nn.Linear(9, 16), nn.Linear(16, 2)), MLP).load_state_dict(
            model.state_dict(), strict=False
        )


def test_a_copy_is_independent_and_complete():
    model = adapted_mlp()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    learn_something(twin)
    assert not torch.allclose(twin(X), model(X))
    assert twin.backbone[0]._magnitudes is twin.magnitudes


def test_an_adapter_that_took_no_part_is_an_error():
    class Bypass(nn.Module):
        num_features = 8

        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(RuntimeError, match=r"1 of 2 adapted layers took no part.*'idle'"):
        SDLoRAModel(Bypass(), MLP)(X)


def test_frozen_backbones_do_not_update_running_statistics():
    backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    model = SDLoRAModel(backbone, MLP).train()
    before = snapshot(model)
    model.features(X)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert isinstance(model.backbone[0], SDLoRALinear)
