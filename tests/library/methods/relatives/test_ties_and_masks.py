"""PRoLoRA, LoRA Dropout and PRILoRA: elements that are copies, are left out, or are pruned."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.optim import SGD, Adam

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.methods.relatives import LoRADropoutPlugin, PRILoRAPlugin, PRoLoRAPlugin
from avalanche_sdlora.methods.relatives.prilora import pruned
from avalanche_sdlora.methods.relatives.prolora import tied, tied_gradient
from tests.common import plain, points_stream, strategy_for

CONFIG = plain(rank=4, targets="*")


def test_chunks_are_rolled_copies_and_the_gradient_is_that_of_the_one_chunk():
    torch.manual_seed(0)
    chunk, own, weight = torch.randn(3, 2), torch.randn(1, 6), torch.randn(4, 6)
    expected = torch.cat([own, torch.cat([chunk, chunk.roll(1, 0), chunk.roll(2, 0)], 1)])
    factor = torch.cat([own, torch.cat([chunk, torch.randn(3, 4)], 1)]).requires_grad_(True)
    assert torch.equal(tied(factor.detach(), 3, 1), expected)
    (tied(factor, 3, 1) * weight).sum().backward()
    gradient = tied_gradient(weight, 3, 1)  # of the loss by the whole factor
    assert torch.equal(gradient[:1], factor.grad[:1])
    torch.testing.assert_close(gradient[1:, :2], factor.grad[1:, :2])
    assert torch.equal(gradient, tied(gradient, 3, 1))


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_prolora_stays_tied_while_it_trains_and_counts_what_is_free(optimizer):
    strategy = strategy_for(config=CONFIG, plugins=[PRoLoRAPlugin(4, 1)], optimizer=lambda g: optimizer(g, lr=0.01))
    strategy.train(points_stream().train_stream[0])
    for p in projections_of(strategy.model):
        assert p.B.any()
        assert torch.equal(p.A, tied(p.A, 4, 1))
        assert torch.equal(p.B.T, tied(p.B.T, 4, 1))
    sizes = (8, 16, 16, 16)  # inputs and outputs of two layers
    assert strategy.model.parameter_report()["trained"] == sum(d + 3 * d // 4 for d in sizes) + 2 * 17


class Masked(SupervisedPlugin):
    """Looks at the factors that a forward pass sees."""

    seen = ()

    def before_forward(self, strategy, **kwargs):
        self.seen = [(p.A.detach().clone(), p.B.detach().clone()) for p in projections_of(strategy.model)]

    def after_backward(self, strategy, **kwargs):
        self.gradients = [(p.A.grad, p.B.grad) for p in projections_of(strategy.model)]


def test_lora_dropout_masks_inputs_and_outputs_of_a_step_but_never_the_rank():
    look = Masked()
    strategy = strategy_for(config=CONFIG, plugins=[LoRADropoutPlugin(0.5), look], train_epochs=5)
    strategy.train(points_stream().train_stream[0])
    left_out = 0
    for (A, B), (dA, dB) in zip(look.seen, look.gradients):
        inputs, outputs = (A == 0).all(0), (B == 0).all(1)
        assert not (A == 0)[:, ~inputs].any()
        assert not (B == 0)[~outputs].any()
        assert not dA[:, inputs].any()
        assert not dB[outputs].any()
        left_out += int(inputs.sum() + outputs.sum())
    assert 10 < left_out < 46  # of 56
    assert all(p.A.all() for p in projections_of(strategy.model))  # whole again


def test_the_ensemble_is_the_mean_of_masked_models_and_changes_nothing_learned():
    class Outputs(SupervisedPlugin):
        def after_eval_forward(self, strategy, **kwargs):
            self.logits = strategy.mb_output

    logits = []
    for rate, ensemble in ((0.5, 0), (0.0, 3), (0.5, 3), (0.5, 100)):
        torch.manual_seed(0)
        plugin, look = LoRADropoutPlugin(0.0, ensemble), Outputs()
        strategy = strategy_for(config=CONFIG, plugins=[plugin, look], optimizer=lambda g: SGD(g, lr=0.05))
        strategy.train(points_stream().train_stream[0])
        plugin.rate, before = rate, plugin._generator.get_state()
        strategy.eval(points_stream().test_stream[:1])
        assert torch.equal(plugin._generator.get_state(), before)
        logits.append(look.logits[:, :2])
    torch.testing.assert_close(logits[1], logits[0])
    assert not torch.allclose(logits[2], logits[0])
    assert (logits[3] - logits[0]).norm() < (logits[2] - logits[0]).norm()


def test_pruning_takes_the_elements_of_each_row_that_matter_least():
    A = torch.tensor([[4.0, -3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    norms = torch.tensor([1.0, 1.0, 1.0, 100.0])
    assert pruned(A, norms, 0.5).tolist() == [[4.0, 0.0, 0.0, 1.0], [0.0, 0.0, 3.0, 4.0]]
    assert torch.equal(pruned(A, norms, 0.0), A)


def test_prilora_prunes_half_of_the_input_side_every_so_many_steps():
    class Zeros(SupervisedPlugin):
        shares = ()

        def after_update(self, strategy, **kwargs):
            zero = [float((p.A == 0).float().mean()) for p in projections_of(strategy.model)]
            self.shares = [*self.shares, zero]

    look, plugin = Zeros(), PRILoRAPlugin(every=3)
    strategy = strategy_for(config=CONFIG, plugins=[plugin, look], train_epochs=2)
    strategy.train(points_stream().train_stream[0])
    assert [share == [0.5, 0.5] for share in look.shares] == [False, False, True, False, False, True, False, False]
    assert list(plugin.norms) == ["0", "2"]
    assert not any(adapter._forward_pre_hooks for adapter in strategy.model._adapters.values())
