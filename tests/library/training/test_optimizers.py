"""Optimizers that are more than a list of groups, along a stream."""

import pytest
import torch
from timm.optim import Lookahead
from torch.optim import SGD, Adagrad, AdamW

from tests.common import optimized, points_stream, strategy_for, trainable


def makes_state_late(kind):
    """Whether an optimizer makes the state of a parameter at its first step; Adagrad of torch 2.4 does not."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, parameter.grad = kind([parameter]), torch.zeros(1)
    optimizer.state.clear()
    try:
        optimizer.step()
    except KeyError:
        return False
    return True


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda groups: torch.optim.Adafactor(groups, lr=0.05),  # factors its state
            marks=pytest.mark.skipif(not hasattr(torch.optim, "Adafactor"), reason="torch has it from 2.5 on"),
        ),
        pytest.param(
            lambda groups: Adagrad(groups, lr=0.05, fused=True),
            marks=pytest.mark.skipif(not makes_state_late(Adagrad), reason="its state belongs to its first parameters"),
        ),
        lambda groups: AdamW(groups, lr=0.01, amsgrad=True),
    ],
    ids=["adafactor", "adagrad", "adamw"],
)
def test_it_trains_what_every_task_brings(make, reset):
    strategy = strategy_for(optimizer=make, reset_optimizer_state=reset)
    for experience in points_stream().train_stream:
        strategy.train(experience)
        assert set(optimized(strategy)) == set(trainable(strategy))
        assert all(p.detach().abs().sum() > 0 for p in strategy.model.trainable_groups()["directions"])  # B began at 0
        assert set(strategy.optimizer.state) <= set(optimized(strategy))
    assert torch.isfinite(strategy.model.head.weight).all()


def test_an_optimizer_around_another_is_refused():
    with pytest.raises(ValueError, match="Lookahead wraps SGD, whose state of an earlier task would stay"):
        strategy_for(optimizer=lambda groups: Lookahead(SGD(groups, lr=0.05)))
