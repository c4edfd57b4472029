"""SoRA and BeamLoRA: numbers that weigh the columns of a direction."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.optim import SGD, Adam

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.methods.relatives import BeamLoRAPlugin, SoRAPlugin
from avalanche_sdlora.methods.relatives.beamlora import weakest_and_strongest
from avalanche_sdlora.methods.relatives.sora import soft_threshold
from tests.common import points_stream, strategy_for


class Around(SupervisedPlugin):
    """Remembers the function just before a task's directions end, and the gates then."""

    def on_direction_end(self, strategy, **kwargs):
        self.before = strategy.model.eval()(torch.ones(2, 8)).detach()
        self.gates = [p.scale[len(p.bank_A) :].detach().clone() for p in projections_of(strategy.model)]
        strategy.model.train()


class Gradient(SupervisedPlugin):
    """Compares the gradient of every gate with that of a forward pass in which the gate multiplies ``B``."""

    def after_backward(self, strategy, **kwargs):
        for name, adapter in strategy.model._adapters.items():
            dW = adapter_gradient(strategy, name)
            for p in projections_of(adapter):
                expected = ((dW[p.start : p.stop].T @ p.B) * p.A.T).sum(0)
                torch.testing.assert_close(p.scale.grad[len(p.bank_A) :], expected, rtol=1e-3, atol=1e-6)
                self.checked = True


def adapter_gradient(strategy, name):
    """The gradient of the loss by a layer's whole weight, from a pass of its own."""
    adapter = strategy.model._adapters[name]
    delta = torch.zeros_like(adapter.base.weight, requires_grad=True)
    handle = adapter.register_forward_hook(lambda module, inputs, y: y + inputs[0] @ delta.T)
    try:
        loss = strategy._criterion(strategy.model(strategy.mb_x), strategy.mb_y)
        return torch.autograd.grad(loss, delta)[0]
    finally:
        handle.remove()


def test_the_soft_threshold_is_the_proximal_map_of_the_absolute_value():
    x = torch.linspace(-2, 2, 41)
    grid = torch.linspace(-3, 3, 6001)
    best = grid[((grid - x[:, None]).square() / 2 + 0.5 * grid.abs()).argmin(1)]
    torch.testing.assert_close(soft_threshold(x, 0.5), best, rtol=0, atol=1e-3)


@pytest.mark.parametrize("plugin", [SoRAPlugin, BeamLoRAPlugin])
def test_gates_get_the_gradient_of_the_columns_that_they_weigh(plugin):
    look = Gradient()
    strategy = strategy_for(plugins=[plugin(), look])
    strategy.train(points_stream().train_stream[:2])
    assert look.checked


def test_gates_make_the_steps_of_adam_in_every_task_anew():
    class Follow(SupervisedPlugin):
        """Makes the steps of a gate's gradients with torch's own optimizer."""

        def before_training_epoch(self, strategy, **kwargs):
            if not strategy.clock.train_exp_epochs:
                p = projections_of(strategy.model)[0]
                self.own = torch.nn.Parameter(p.scale[len(p.bank_A) :].detach().clone())
                self.adam = Adam([self.own], lr=0.05)

        def after_update(self, strategy, **kwargs):
            p = projections_of(strategy.model)[0]
            self.own.grad = p.scale.grad[len(p.bank_A) :].clone()
            self.adam.step()
            torch.testing.assert_close(p.scale[len(p.bank_A) :].detach(), self.own.detach())
            self.steps = getattr(self, "steps", 0) + 1

    follow = Follow()
    strategy = strategy_for(plugins=[SoRAPlugin(0.0), follow], train_epochs=2, optimizer=lambda g: SGD(g, lr=0.05))
    strategy.train(points_stream().train_stream[:2])
    assert follow.steps == 16


def test_sora_drops_the_columns_whose_gate_is_zero_and_nothing_else():
    around, stream = Around(), points_stream().train_stream
    torch.manual_seed(0)
    strategy = strategy_for(plugins=[around, SoRAPlugin(0.2)], train_epochs=1)
    strategy.train(stream[0])
    ranks = [len(p.A) for p in projections_of(strategy.model)]
    assert ranks == [int((gate != 0).sum()) for gate in around.gates]
    assert 0 < sum(ranks) < 4  # of two projections of rank 2
    torch.testing.assert_close(strategy.model.eval()(torch.ones(2, 8)), around.before)
    strategy.train(stream[1])
    assert len(strategy.model.magnitudes) == 2


def test_sora_keeps_everything_without_a_threshold_and_nothing_with_a_large_one():
    for threshold, rank in ((0.0, 4), (10.0, 0)):
        strategy = strategy_for(plugins=[SoRAPlugin(threshold)])
        strategy.train(points_stream().train_stream[:3])
        assert strategy.model.parameter_report()["rank"] == 3 * rank
        factors, gates, head = 2 * (8 + 16 + 16 + 16), 4, 6 * 17
        assert strategy.model.parameter_report()["trained"] == factors + gates + head  # before any was dropped


def test_beamlora_starts_as_lora_and_copies_strong_columns_over_weak_ones():
    weak, strong = weakest_and_strongest(torch.tensor([0.02, 0.5, 0.01, 0.47]), 0.95)
    assert (weak.tolist(), strong.tolist()) == ([0, 2], [1, 3])
    assert not len(weakest_and_strongest(torch.full((10,), 0.1), 0.95)[0])
    assert len(weakest_and_strongest(torch.tensor([1.0, 0, 0, 0]), 0.5)[0]) == 2  # half at most

    class Push(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            for p, s in zip(projections_of(strategy.model), () if strategy.clock.train_exp_epochs else plugin.scores):
                assert torch.equal(p.scale[len(p.bank_A) :], torch.ones(2))
                s[0] = 9.0  # one column has all the importance

        def after_update(self, strategy, **kwargs):
            A = [p.A.detach().clone() for p in projections_of(strategy.model)]
            self.steps = [*getattr(self, "steps", []), (A, [s.clone() for s in plugin.scores])]

    plugin, push = BeamLoRAPlugin(rounds=2), Push()
    strategy = strategy_for(plugins=[plugin, push], train_epochs=4, optimizer=lambda g: Adam(g, lr=0.01))
    strategy.train(points_stream().train_stream[0])  # 16 steps: columns are kept after 4, copied after 8
    for i in range(2):
        kept, copied = push.steps[3][0][i], push.steps[7][0][i]
        assert torch.equal(copied[1], kept[0])
        assert not torch.equal(copied[0], kept[0])
        apart, shared = push.steps[6][1][i], push.steps[7][1][i]
        assert apart[0] > apart[1] + 8
        assert shared[0] == shared[1]
