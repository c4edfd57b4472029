"""Low-rank methods beside SD-LoRA, on its adapter: what each promises, and that a stream trains what it should."""

import dataclasses

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch.optim import SGD

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.methods import CLoRAPlugin, LoRAPlugin, NLoRAPlugin, OLoRAPlugin
from avalanche_sdlora.methods.inflora import InfLoRAPlugin
from avalanche_sdlora.methods.lwf import LwFPlugin
from tests.common import (
    MLP,
    Watch,
    image_stream,
    mlp,
    needs_bfloat16,
    optimized,
    points_stream,
    snapshot,
    strategy_for,
    tiny_vit,
    trainable,
)
from tests.interrupted import KilledError, assert_same, script

PLUGINS = [LoRAPlugin, OLoRAPlugin, NLoRAPlugin, CLoRAPlugin, InfLoRAPlugin]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_inflora_keeps_the_design_of_a_direction_that_goes_on():
    class Look(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            self.function = strategy.model.features(torch.ones(1, 8)).detach()

    look = Look()
    strategy, stream = strategy_for(plugins=[InfLoRAPlugin(0.9), look]), points_stream().train_stream
    strategy.train(stream[0])
    before = strategy.model.features(torch.ones(1, 8)).detach()
    strategy.train(stream[0])
    torch.testing.assert_close(look.function, before)


@needs_bfloat16
def test_inflora_on_a_transformer_in_bfloat16():
    config = SDLoRAConfig(rank=2, expansion=40, held_out=None)  # by images held out, directions may be taken back
    strategy = strategy_for(tiny_vit(), config, plugins=[InfLoRAPlugin()], precision="bfloat16")
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
@pytest.mark.slow
def test_a_run_that_is_killed_continues_bit_for_bit(plugins, directions, tmp_path):
    settings = {"config": dataclasses.replace(MLP, directions=directions), "length": 2}

    def go(folder, kill=-1):
        return script(folder, kill, plugins=[plugin() for plugin in plugins], **settings)

    whole = go(tmp_path / "whole")
    for kill in (5, 20):  # in the first experience, and in the evaluation after the second
        killed = tmp_path / f"killed {kill}"
        with pytest.raises(KilledError):
            go(killed, kill)
        assert_same(whole, go(killed), (tmp_path / "whole", killed))


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
