"""What holds of every relative: it trains what it should, keeps old directions, and is merged and saved as it is."""

import pytest
import torch
from avalanche.training import Naive
from torch.optim import SGD

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin, load_model, merge, save_adapters
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.config import RANPAC
from avalanche_sdlora.methods import relatives
from avalanche_sdlora.training.compatibility import check_processes
from tests.common import MLP, mlp, optimized, plain, points_stream, strategy_for, trainable

PLUGINS = [getattr(relatives, name) for name in relatives.__all__]
EVERY = [plugin for plugin in PLUGINS if plugin is not relatives.RanPACPlugin]  # which learns one direction
FIRST = plain(rank=2, targets="*", expansion=20, held_out=None, **RANPAC)


def config_of(plugin):
    return FIRST if plugin is relatives.RanPACPlugin else MLP


def trained(plugin, experiences=3, **kwargs):
    torch.manual_seed(0)
    settings = {"config": config_of(plugin), "optimizer": lambda groups: SGD(groups, lr=0.02, momentum=0.9), **kwargs}
    strategy = strategy_for(plugins=[plugin()], train_epochs=2, **settings)
    for experience in points_stream().train_stream[:experiences]:
        strategy.train(experience)
        assert set(optimized(strategy)) == set(trainable(strategy))
    return strategy


@pytest.mark.filterwarnings("error:.*incompatible callbacks")
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_trained_model_is_saved_and_merged_as_it_is(plugin, tmp_path):
    model = trained(plugin).model.eval()
    x = 3 * torch.randn(6, 8)
    expected = model(x)
    assert torch.equal(model.magnitudes.values(), torch.ones_like(model.magnitudes.values()))
    assert all(torch.equal(p.scale[len(p.bank_A) :], torch.ones(len(p.A))) for p, _ in model._projections().values())
    save_adapters(model, tmp_path / "adapters.safetensors")
    torch.testing.assert_close(load_model(tmp_path / "adapters.safetensors", mlp())(x), expected)
    torch.testing.assert_close(merge(model)(x), expected)


@pytest.mark.parametrize("plugin", EVERY)
def test_what_earlier_tasks_learned_stays_bit_for_bit(plugin):
    strategy = trained(plugin, 2)
    projections = projections_of(strategy.model)
    before = [(p.bank_A.clone(), p.bank_B.clone()) for p in projections]
    strategy.train(points_stream().train_stream[2])
    for (A, B), p in zip(before, projections):
        assert torch.equal(p.bank_A[: len(A)], A)
        assert torch.equal(p.bank_B[:, : len(A)], B)
    assert len(strategy.model.magnitudes) == 3


@pytest.mark.parametrize("plugin", EVERY)
def test_every_task_moves_the_weights(plugin):
    moved = torch.zeros(3)
    for p in projections_of(trained(plugin).model):  # a booster of XGBLoRA leaves some of them out
        A, B = torch.cat([p.bank_A, p.A]), torch.cat([p.bank_B, p.B], 1)
        moved += torch.stack([torch.linalg.norm(B[:, p.owner == k] @ A[p.owner == k]) for k in range(3)])
    assert (moved > 1e-3).all()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_several_processes_are_refused_by_the_plugins_name(plugin):
    own = type(f"My{plugin.__name__}", (plugin,), {})
    for kind in (plugin, own):
        with pytest.raises(ValueError, match=f"^{kind.__name__} cannot train in several processes"):
            check_processes(strategy_for(config=config_of(plugin), plugins=[kind()]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: relatives.SoRAPlugin(-1.0), "threshold=-1.0"),
        (lambda: relatives.LoRADropoutPlugin(1.0), "rate=1.0"),
        (lambda: relatives.LoRADropoutPlugin(ensemble=-1), "ensemble=-1"),
        (lambda: relatives.RACLoRAPlugin(0), "links=0"),
        (lambda: relatives.PRoLoRAPlugin(0), "chunks=0"),
        (lambda: relatives.PRoLoRAPlugin(unshared=-1), "unshared=-1"),
        (lambda: relatives.XGBLoRAPlugin(0.0), "share=0.0"),
        (lambda: relatives.BeamLoRAPlugin(0.0), "share=0.0"),
        (lambda: relatives.BeamLoRAPlugin(rounds=0), "rounds=0"),
        (lambda: relatives.PRILoRAPlugin(1.0), "share=1.0"),
        (lambda: relatives.PRILoRAPlugin(every=0), "every=0"),
        (lambda: relatives.LoRAPMPlugin(1.0), "epsilon=1.0"),
        (lambda: relatives.LoRAPMPlugin(images=0), "images=0"),
        (lambda: relatives.LoRASubPlugin(0.0), "threshold=0.0"),
        (lambda: relatives.DualLoRAPlugin(1.5), "threshold=1.5"),
        (lambda: run(MLP, relatives.PRoLoRAPlugin(3)), "chunks=3: a layer of size 8"),
        (lambda: run(plain(rank=2, targets="*", later_path=0.1), relatives.SoRAPlugin()), "later_path=0.1"),
        (lambda: run(plain(rank=2, targets="*", energy=0.9), relatives.DualLoRAPlugin()), "energy=0.9"),
        (lambda: run(SDLoRAConfig(rank=2, targets="*"), relatives.DualLoRAPlugin()), "head='auto'"),
        (lambda: run(plain(rank=1, targets="*"), relatives.DualLoRAPlugin()), "rank=1"),
        (lambda: run(MLP, relatives.RanPACPlugin()), "directions='every' with RanPACPlugin: expected 'first'"),
        (lambda: run(plain(rank=2, targets="*", directions="single"), relatives.SoRAPlugin()), "directions='single'"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def run(config, plugin):
    plugins = [SDLoRAPlugin(config), plugin]
    Naive(model=mlp(), optimizer=SGD([torch.zeros(1)], lr=0.01), plugins=plugins, evaluator=None).train(
        points_stream().train_stream[0]
    )
