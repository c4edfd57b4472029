"""RAC-LoRA and XGBLoRA: columns of a direction that train in turns."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.optim import SGD, AdamW

from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.methods.relatives import RACLoRAPlugin, XGBLoRAPlugin
from tests.common import plain, points_stream, strategy_for

CONFIG = plain(rank=4, targets="*")


class Moves(SupervisedPlugin):
    """Notes at every step which columns of ``B``, and which rows of ``A``, have changed."""

    def __init__(self):
        super().__init__()
        self.moves = []

    def before_forward(self, strategy, **kwargs):
        self.before = [(p.A.detach().clone(), p.B.detach().clone()) for p in projections_of(strategy.model)]

    def after_update(self, strategy, **kwargs):
        now = [(p.A, p.B) for p in projections_of(strategy.model)]
        self.moves.append(
            [((A != A0).any(1).tolist(), (B != B0).any(0).tolist()) for (A, B), (A0, B0) in zip(now, self.before)]
        )


def moves(plugin, optimizer, epochs=2):
    look = Moves()
    strategy = strategy_for(config=CONFIG, plugins=[plugin, look], optimizer=optimizer, train_epochs=epochs)
    strategy.train(points_stream().train_stream[0])  # four steps an epoch
    return strategy, look.moves


@pytest.mark.parametrize(
    "optimizer", [lambda g: SGD(g, lr=0.05, momentum=0.9), lambda g: AdamW(g, lr=0.01, weight_decay=0.1)]
)
def test_a_link_trains_its_columns_of_b_alone(optimizer):
    strategy, steps = moves(RACLoRAPlugin(links=2), optimizer)
    for i, step in enumerate(steps):
        for A, B in step:
            assert A == [False] * 4
            assert [i < 4, i < 4, i >= 4, i >= 4] == B
    assert strategy.model.parameter_report()["trained"] == 4 * (16 + 16) + 2 * 17  # B of two layers, and the head


def test_the_orthogonal_input_side_is_one_for_all_tasks():
    strategy = strategy_for(config=CONFIG, plugins=[RACLoRAPlugin(orthogonal=True)])
    stream, rows = points_stream().train_stream, []
    for experience in stream[:2]:
        strategy.train(experience)
        rows.append([p.A.detach().clone() for p in projections_of(strategy.model)])
    for first, second in zip(*rows):
        assert torch.equal(first, second)
        torch.testing.assert_close(first @ first.T, torch.eye(4) / 3)


@pytest.mark.parametrize(
    "optimizer", [lambda g: SGD(g, lr=0.05, momentum=0.9), lambda g: AdamW(g, lr=0.01, weight_decay=0.1)]
)
def test_a_booster_trains_one_column_on_the_layers_that_it_has_chosen(optimizer):
    strategy, steps = moves(XGBLoRAPlugin(share=0.5), optimizer)
    chosen = []
    for i, step in enumerate(steps):
        turn = i // 2  # eight steps for four columns
        active = [turn if [j == turn for j in range(4)] == B else None for _, B in step]
        assert sum(a is not None for a in active) == 1
        assert all(B == [False] * 4 for (_, B), a in zip(step, active) if a is None)
        chosen.append(active.index(turn))
    assert chosen[::2] == chosen[1::2]
    for index, p in enumerate(projections_of(strategy.model)):
        zero = (p.B == 0).all(0).tolist()
        assert zero == [chosen[2 * j] != index for j in range(4)]
