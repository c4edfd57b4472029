"""LoRA-P&M, LoRA-Sub, DualLoRA, RanPAC and LoRA Recycle: what a task makes of those before it."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.optim import SGD, Adam

from avalanche_sdlora import SDLoRAModel
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.config import RANPAC
from avalanche_sdlora.methods.inputs import input_moments
from avalanche_sdlora.methods.relatives import (
    DualLoRAPlugin,
    LoRAPMPlugin,
    LoRASubPlugin,
    RanPACPlugin,
    RecyclePlugin,
)
from avalanche_sdlora.methods.relatives.lora_pm import fisher
from avalanche_sdlora.methods.relatives.lora_sub import resistant_space, subtracted
from tests.common import MLP, adapted_mlp, plain, points_stream, snapshot, strategy_for


class AtEnd(SupervisedPlugin):
    """Calls a function with the strategy when an experience's training is over, while its images are there."""

    called = False

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_direction_end(self, strategy, **kwargs):
        self.function(strategy)
        self.called = True


def weights(model):
    return [adapter.merged(torch.float32).clone() for adapter in model._adapters.values()]


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_single_images():
    def compare(strategy):
        found, data = fisher(strategy, 5, batch_size=2), strategy.adapted_dataset
        adapter = next(iter(strategy.model._adapters.values()))
        expected = torch.zeros_like(adapter.base.weight)
        for i in torch.linspace(0, len(data) - 1, 5).round().long().tolist():
            x, y = data[i][0][None], torch.tensor([data[i][1]])
            delta = torch.zeros_like(adapter.base.weight, requires_grad=True)
            handle = adapter.register_forward_hook(lambda module, inputs, out, d=delta: out + inputs[0] @ d.T)
            loss = strategy._criterion(strategy.model.head(strategy.model.features(x)), y)
            expected += torch.autograd.grad(loss, delta)[0].square() / 5
            handle.remove()
        assert expected.any()
        torch.testing.assert_close(found[0], expected)

    strategy = strategy_for(plugins=[look := AtEnd(compare)])
    strategy.train(points_stream().train_stream[0])
    assert look.called


def test_the_merging_coefficient_makes_the_least_of_all_quadratic_losses():
    class Before(SupervisedPlugin):
        """The coefficients' ingredients: optimum of each task, and its Fisher information, for one layer."""

        def __init__(self):
            super().__init__()
            self.tasks, self.start = [], None

        def before_training_exp(self, strategy, **kwargs):
            self.start = torch.cat([w.flatten() for w in weights(strategy.model)])

        def on_direction_end(self, strategy, **kwargs):
            F = torch.cat([f.flatten() for f in fisher(strategy, 256)])
            self.tasks.append((torch.cat([w.flatten() for w in weights(strategy.model)]), F))

    before, plugin = Before(), LoRAPMPlugin()
    torch.manual_seed(0)
    strategy = strategy_for(plugins=[before, plugin], train_epochs=3, optimizer=lambda g: SGD(g, lr=0.05))
    for experience in points_stream().train_stream[:3]:
        strategy.train(experience)
        update = before.tasks[-1][0] - before.start

        def loss(a, update=update):
            merged = before.start + a * update
            return float(sum(((merged - theta).square() * F).sum() for theta, F in before.tasks))

        a = plugin.coefficients[-1]
        torch.testing.assert_close(
            torch.cat([w.flatten() for w in weights(strategy.model)]), before.start + a * update, rtol=0, atol=1e-5
        )
        assert loss(a) <= min(loss(b) for b in torch.linspace(0, 1, 101).tolist()) * (1 + 1e-4)
    assert plugin.coefficients[0] == 1
    assert plugin.coefficients[2] < 1


def test_p_and_m_perturbs_the_present_update_alone_and_leaves_it_whole():
    class Scales(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.present, self.past = set(), set()

        def before_forward(self, strategy, **kwargs):
            p = projections_of(strategy.model)[0]
            self.present |= set(p.scale[len(p.bank_A) :].tolist())
            self.past |= set(p.scale[: len(p.bank_A)].tolist())

    look = Scales()
    strategy = strategy_for(plugins=[LoRAPMPlugin(0.5), look], train_epochs=5)
    strategy.train(points_stream().train_stream[:2])
    assert look.present == {0.5, 1.0, 1.5}
    assert len(look.past) == 1
    assert all(torch.equal(p.scale[len(p.bank_A) :], torch.ones(2)) for p in projections_of(strategy.model))


def test_the_resistant_space_is_outside_the_strongest_inputs():
    moment = torch.diag(torch.tensor([1.0, 8.0, 0.5, 0.5], dtype=torch.float64))
    assert resistant_space(moment, 0.8).abs().sum(1).nonzero().flatten().tolist() == [0, 2, 3]
    assert resistant_space(moment, 0.85).abs().sum(1).nonzero().flatten().tolist() == [2, 3]
    assert resistant_space(moment, 1.0).shape == (4, 0)


def test_subtraction_mirrors_the_updates_and_gives_them_back():
    model = adapted_mlp(experiences=2)
    model.begin_experience({0: [8]})
    W0 = [adapter.base.weight for adapter in model._adapters.values()]
    added = weights(model)
    with torch.no_grad(), subtracted(model):
        for W, plus, base in zip(weights(model), added, W0):
            torch.testing.assert_close(W, 2 * base - plus)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), added))


@pytest.mark.parametrize("optimizer", [lambda g: SGD(g, lr=0.05, momentum=0.9), lambda g: Adam(g, lr=0.01)])
def test_lora_sub_learns_within_the_space_of_each_layer(optimizer):
    strategy = strategy_for(plugins=[plugin := LoRASubPlugin(0.5)], optimizer=optimizer, train_epochs=2)
    stream = points_stream().train_stream
    strategy.train(stream[0])
    assert not plugin.spaces  # nothing to subtract
    before = weights(strategy.model)
    strategy.train(stream[1])
    for after, past, (_, space) in zip(weights(strategy.model), before, plugin.spaces.items()):
        change = (after - past).double()
        assert 0 < space.shape[1] < len(space)
        assert change.norm() > 1e-3
        assert (change - change @ space @ space.T).norm() < 1e-4 * change.norm()


def test_the_orthogonal_half_of_duallora_leaves_old_inputs_alone():
    strategy = strategy_for(plugins=[plugin := DualLoRAPlugin(0.999)], train_epochs=2)
    stream = points_stream().train_stream
    strategy.train(stream[0])
    name, layer = next(iter(strategy.model._adapters.items()))
    basis = plugin.bases[name]
    strategy.train(stream[1])
    p = projections_of(layer)[0]
    assert p.A.shape == (2, 8)
    first = (p.B[:, :1] @ p.A[:1]).double()
    assert first.norm() > 1e-4
    assert (first @ basis).norm() < 1e-5 * first.norm()
    assert (p.A[:1] @ p.A[1:].T).abs() < 1e-6


def test_duallora_scales_the_residual_half_by_the_sample_in_evaluation_only():
    strategy = strategy_for(plugins=[plugin := DualLoRAPlugin()], train_epochs=2, optimizer=lambda g: SGD(g, lr=0.05))
    strategy.train(points_stream().train_stream[:2])
    model, x = strategy.model.eval(), torch.randn(4, 8)
    name, layer = next(iter(model._adapters.items()))
    with torch.no_grad():
        merged = layer(x)
        plugin.before_eval(strategy)
        scaled = layer(x)
        p = projections_of(layer)[0]
        A, B = torch.cat([p.bank_A, p.A]), torch.cat([p.bank_B, p.B], 1) * layer.updates()[0].c
        expected = x @ layer.base.weight.T + layer.base.bias
        for task, share in enumerate(plugin.shares[name]):
            columns = (p.owner == task).nonzero().flatten()
            row = torch.nn.functional.normalize(A[columns[1:]], dim=1)
            gate = ((x @ row.T).square() / x.square().sum(1, keepdim=True) / share).clamp(max=1)
            expected += (x @ A[columns[:1]].T) @ B[:, columns[:1]].T
            expected += gate * ((x @ A[columns[1:]].T) @ B[:, columns[1:]].T)
        torch.testing.assert_close(scaled, expected)
        assert not torch.allclose(scaled, merged)
        plugin.after_eval(strategy)
        assert torch.equal(layer(x), merged)


def test_ranpac_adapts_to_the_first_task_and_makes_no_step_after_it():
    class Steps(SupervisedPlugin):
        steps = 0

        def after_update(self, strategy, **kwargs):
            self.steps += 1

    look = Steps()
    config = plain(rank=2, targets="*", expansion=20, held_out=None, **RANPAC)
    strategy = strategy_for(config=config, plugins=[RanPACPlugin(), look])
    stream = points_stream()
    strategy.train(stream.train_stream[0])
    assert look.steps == 4
    before = snapshot(strategy.model.backbone)
    strategy.train(stream.train_stream[1])
    assert look.steps == 4
    x = torch.randn(3, 8)
    after = snapshot(strategy.model.backbone)
    assert strategy.model.head.classes() == [0, 1, 2, 3]
    assert strategy.model.eval()(x)[:, :4].isfinite().all()
    torch.testing.assert_close(sum_of(before), sum_of(after))


def sum_of(state):
    """The update of the first layer, in whichever tensors it is kept."""
    parts = {key.rpartition(".")[2]: t for key, t in state.items() if key.startswith("0.projections.0.")}
    A, B = torch.cat([parts["bank_A"], parts["A"]]), torch.cat([parts["bank_B"], parts["B"]], 1)
    return (B * parts["scale"]) @ A


def test_recycling_starts_from_the_leading_directions_without_changing_the_function():
    model = adapted_mlp(experiences=1)
    strategy = strategy_for(model, plugins=[plugin := RecyclePlugin()], config=None)
    model.begin_experience({0: [4, 5]})
    x, p = torch.randn(3, 8), projections_of(model)[0]
    before = model.features(x)
    with torch.no_grad():
        plugin.begin(strategy, projections_of(model), 0)
    assert torch.equal(model.features(x), before)
    Vh = torch.linalg.svd(p.bank_B * p.scale[:2] @ p.bank_A, full_matrices=False).Vh[:2]
    torch.testing.assert_close((3**0.5 * p.A @ Vh.T).abs(), torch.eye(2), rtol=0, atol=1e-4)


def test_a_pool_of_other_models_warms_the_first_task_up():
    pool = adapted_mlp(experiences=2, seed=3)
    fresh, warm = (strategy_for(plugins=[RecyclePlugin(models)]) for models in ((), (pool,)))
    rows = []
    for strategy in (fresh, warm):
        strategy.model.begin_experience({0: [0, 1]})
        with torch.no_grad():
            strategy.plugins[1].begin(strategy, projections_of(strategy.model), 0)
        rows.append(projections_of(strategy.model)[0].A.detach().clone())
    total = pool._adapters["0"].merged(torch.float32) - pool._adapters["0"].base.weight
    Vh = torch.linalg.svd(total).Vh[:2]
    torch.testing.assert_close((3**0.5 * rows[1] @ Vh.T).abs(), torch.eye(2), rtol=0, atol=1e-3)
    assert not torch.allclose(rows[0], rows[1])
    strategy = strategy_for(plugins=[plugin := RecyclePlugin([small_model()])])
    strategy.model.begin_experience({0: [0]})
    with torch.no_grad(), pytest.raises(ValueError, match="pool: a model has no projection"):
        plugin.begin(strategy, projections_of(strategy.model), 0)


def small_model():
    model = SDLoRAModel(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), MLP)
    model.begin_experience({0: [0]})
    return model


def test_the_moments_of_the_inputs_are_those_of_the_images():
    def compare(strategy):
        x = torch.stack([x for x, *_ in strategy.adapted_dataset]).double()
        torch.testing.assert_close(input_moments(strategy)["0"], x.T @ x / len(x), rtol=1e-5, atol=1e-5)

    strategy = strategy_for(plugins=[look := AtEnd(compare)])
    strategy.train(points_stream().train_stream[0])
    assert look.called
