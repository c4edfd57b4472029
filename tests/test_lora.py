"""Low-rank methods beside SD-LoRA, on its adapter: what each promises, and that a stream trains what it should."""

import dataclasses

import pytest
import torch
from avalanche.training import Naive
from torch.optim import SGD

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin
from avalanche_sdlora.adapter import projections_of
from avalanche_sdlora.distillation import LwFPlugin
from avalanche_sdlora.inflora import InfLoRAPlugin
from avalanche_sdlora.lora import CLoRAPlugin, LoRAPlugin, NLoRAPlugin, OLoRAPlugin
from avalanche_sdlora.penalties import magnitude_of_update, overlap, random_subspace, subspace_energy
from avalanche_sdlora.protected import extend, free_rows
from tests.common import (
    MLP,
    Watch,
    image_stream,
    mlp,
    optimized,
    points_stream,
    snapshot,
    strategy_for,
    tiny_vit,
    trainable,
)
from tests.test_checkpoint import KilledError, assert_same, script

PLUGINS = [LoRAPlugin, OLoRAPlugin, NLoRAPlugin, CLoRAPlugin, InfLoRAPlugin]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- the formulas ------------------------------------------------------------------------------------------------------


def test_overlap_is_zero_for_orthogonal_rows_and_descending_it_makes_them_so():
    past = randn(3, 8)
    complement = torch.linalg.svd(past).Vh[3:5]
    assert overlap(complement, past) < 1e-5
    assert overlap(randn(2, 8, seed=1), past[:0]) == 0
    A = randn(2, 8, seed=1).requires_grad_()
    before = overlap(A, past)
    for _ in range(1000):
        (gradient,) = torch.autograd.grad(overlap(A, past), A)
        A.data -= 0.005 * gradient
    assert overlap(A, past) < 0.05 * before
    assert A.norm() > 0.5  # not by vanishing


def test_overlap_counts_rows_at_unit_length():
    A, past = randn(2, 8), randn(3, 8, seed=1)
    expected = sum(abs(a @ p) / p.norm() for a in A for p in past)
    torch.testing.assert_close(overlap(A, 7 * past), expected)


def test_the_magnitude_of_an_update_is_that_of_the_product():
    A, B = randn(2, 3), randn(5, 2, seed=1)
    torch.testing.assert_close(magnitude_of_update(A, B), sum(x.abs() for x in (B @ A).flatten()))
    assert magnitude_of_update(A, 0 * B) == 0


def test_subspace_energy_is_zero_exactly_outside_the_subspaces():
    P, Q = random_subspace(8, 4, seed=1), random_subspace(6, 3, seed=2)
    torch.testing.assert_close(P.T @ P, torch.eye(4))
    A, B = randn(2, 8), randn(6, 2)
    outside = A - A @ P @ P.T, B - Q @ (Q.T @ B)
    assert subspace_energy(*outside, P, Q) < 1e-10
    torch.testing.assert_close(
        subspace_energy(A, B, P, Q), ((A - outside[0]).square().sum() + (B - outside[1]).square().sum()) / 2
    )


def test_free_rows_are_the_strongest_directions_outside_the_protected_subspace():
    x = randn(50, 6).double() * torch.tensor([5.0, 4, 3, 2, 1, 0.5])
    basis = torch.eye(6, dtype=torch.float64)[:, :1]
    rows = free_rows(x.T @ x, basis, 2)
    assert torch.equal(rows @ basis, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(3 * rows @ rows.T, torch.eye(2, dtype=torch.float64))
    rest = x[:, 1:]
    leading = torch.linalg.svd(rest, full_matrices=False).Vh[:2]
    torch.testing.assert_close(((rows[:, 1:] * 3**0.5) @ leading.T).abs(), torch.eye(2, dtype=torch.float64))


def test_free_rows_are_zero_where_nothing_is_left():
    x = randn(50, 6).double()
    basis = torch.linalg.qr(randn(6, 5).double()).Q
    norms = free_rows(x.T @ x, basis, 3).norm(dim=1)
    assert norms[0] > 0.5
    assert torch.equal(norms[1:], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0.5, 0.95, 1.0])
def test_the_protected_subspace_grows_to_the_threshold_and_no_further(threshold):
    basis = torch.empty(6, 0, dtype=torch.float64)
    for task in range(3):
        x = randn(50, 6, seed=task).double() * randn(6, seed=10 + task).double() ** 3
        moment = x.T @ x
        before, basis = basis, extend(basis, moment, threshold)
        assert torch.equal(basis[:, : before.shape[1]], before)
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))

        def share(M, moment=moment):
            return 1 - (moment - M @ M.T @ moment).square().sum() / moment.square().sum()

        assert share(basis) >= threshold - 1e-12
        if basis.shape[1] > before.shape[1]:
            assert share(basis[:, :-1]) < threshold
    assert torch.equal(extend(basis, moment, threshold), basis)


# -- on a stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_stream_trains_what_requires_a_gradient_and_no_magnitude(plugin):
    watch = Watch()
    strategy = strategy_for(plugins=[plugin(), watch])
    untrained = snapshot(strategy.model.backbone)
    for experience in points_stream().train_stream[:3]:
        strategy.train(experience)
        assert set(optimized(strategy)) == set(trainable(strategy))
    model = strategy.model
    assert watch.iterations == 12
    assert torch.equal(model.magnitudes.values(), torch.ones_like(model.magnitudes.values()))
    assert [g["name"] for g in strategy.optimizer.param_groups if not g["params"]] == ["magnitudes"]
    bases = [name for name in untrained if ".base." in name]
    assert all(torch.equal(model.backbone.state_dict()[name], untrained[name]) for name in bases)
    projections = projections_of(model)
    trained = sum(p.B.numel() + (p.A.numel() if p.A.requires_grad else 0) for p in projections)
    assert model.parameter_report()["trained"] == trained + 6 * 17


@pytest.mark.parametrize("plugin", PLUGINS)
def test_earlier_directions_stay_as_they_are(plugin):
    stream = points_stream().train_stream
    strategy = strategy_for(plugins=[plugin()])
    strategy.train(stream[0])
    x = randn(5, 8)
    weights = []
    for e in (0, 1):
        if e:
            strategy.model.begin_experience({0: [8, 9]})  # B = 0: nothing new yet
        weights.append([a.merged(torch.float32).clone() for a in strategy.model._adapters.values()])
        strategy.model(x)
    for before, after in zip(*weights):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_sequential_lora_trains_one_pair_of_factors():
    config = dataclasses.replace(MLP, directions="single")
    strategy = strategy_for(config=config, plugins=[LoRAPlugin()])
    strategy.train(points_stream().train_stream)
    assert strategy.model.parameter_report()["rank"] == 4
    assert len(strategy.model.magnitudes) == 1


def penalties(weight, plugin):
    """The plugin's own penalty, unweighted, at the end of two tasks trained with this weight."""
    strategy = strategy_for(plugins=[plugin(weight)], train_epochs=4)
    torch.manual_seed(0)
    strategy.train(points_stream().train_stream[:2])
    projections = projections_of(strategy.model)
    return float(sum(plugin().penalty(p, i).detach() for i, p in enumerate(projections)))


@pytest.mark.parametrize(("plugin", "weight"), [(OLoRAPlugin, 0.5), (NLoRAPlugin, 0.1), (CLoRAPlugin, 1.0)])
def test_the_penalty_drives_down_what_it_measures(plugin, weight):
    assert penalties(weight, plugin) < 0.5 * penalties(0.0, plugin)


def test_with_inflora_old_inputs_pass_a_new_update_unchanged():
    """In the first adapted layer, whose inputs are the same at every task."""
    stream = points_stream().train_stream
    strategy = strategy_for(plugins=[InfLoRAPlugin(0.999)], optimizer=lambda g: SGD(g, lr=0.05), train_epochs=3)
    strategy.train(stream[0])
    layer = next(iter(strategy.model._adapters.values()))
    basis = next(iter(strategy.plugins[1].bases.values()))
    assert 0 < basis.shape[1] < 8  # some, not all
    before = layer.merged(torch.float32).clone()
    strategy.train(stream[1])
    change = (layer.merged(torch.float32) - before).double()
    assert change.norm() > 1e-2
    assert (change @ basis).norm() < 1e-5 * change.norm()


def test_inflora_on_a_transformer_in_bfloat16():
    strategy = strategy_for(tiny_vit(), SDLoRAConfig(rank=2), plugins=[InfLoRAPlugin()], autocast=torch.bfloat16)
    strategy.train(image_stream().train_stream)
    bases = strategy.plugins[1].bases
    assert list(bases) == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    for projection in projections_of(strategy.model):
        assert torch.allclose(projection.A.norm(dim=1), torch.tensor(3**-0.5))


@pytest.mark.parametrize(
    ("plugins", "directions"),
    [
        ([LoRAPlugin, LwFPlugin], "single"),
        ([OLoRAPlugin], "every"),
        ([InfLoRAPlugin], "every"),
        ([CLoRAPlugin], "every"),
    ],
)
@pytest.mark.parametrize("kill", [5, 20])
def test_a_run_that_is_killed_continues_bit_for_bit(plugins, directions, kill, tmp_path):
    settings = {"config": dataclasses.replace(MLP, directions=directions), "length": 2}

    def go(folder, kill=-1):
        return script(folder, kill, plugins=[plugin() for plugin in plugins], **settings)

    whole = go(tmp_path / "whole")
    with pytest.raises(KilledError):
        go(tmp_path / "killed", kill)
    assert_same(whole, go(tmp_path / "killed"), (tmp_path / "whole", tmp_path / "killed"))


def test_a_plugin_gives_what_a_strategy_gives():
    models = []
    for own in (True, False):
        if own:
            strategy = strategy_for(plugins=[OLoRAPlugin()], optimizer=SGD([torch.zeros(1)], lr=0.01))
        else:
            vit, optimizer = mlp(), SGD([torch.zeros(1)], lr=0.01)
            strategy = Naive(
                model=vit,
                optimizer=optimizer,
                plugins=[SDLoRAPlugin(MLP), OLoRAPlugin()],
                evaluator=None,
                train_mb_size=10,
            )
        torch.manual_seed(1)
        strategy.train(points_stream().train_stream[:2])
        models.append(snapshot(strategy.model))
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OLoRAPlugin(-1.0), "weight=-1.0"),
        (lambda: NLoRAPlugin(float("nan")), "weight=nan"),
        (lambda: CLoRAPlugin(share=1.0), "share=1.0"),
        (lambda: InfLoRAPlugin(0.0), "threshold=0.0"),
        (lambda: run(MLP, OLoRAPlugin, first=False), "SDLoRAPlugin must stand before OLoRAPlugin"),
        (lambda: run(SDLoRAConfig.paper(rank=2, targets="*"), LoRAPlugin), "boundary='reset' with LoRAPlugin"),
        (lambda: run(dataclasses.replace(MLP, directions="single"), OLoRAPlugin), "directions='single'"),
        (lambda: run(dataclasses.replace(MLP, directions="first"), InfLoRAPlugin), "directions='first'"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def run(config, plugin, first=True):
    plugins = [SDLoRAPlugin(config), plugin()] if first else [plugin(), SDLoRAPlugin(config)]
    Naive(model=mlp(), optimizer=SGD([torch.zeros(1)], lr=0.01), plugins=plugins, evaluator=None).train(
        points_stream().train_stream[0]
    )
