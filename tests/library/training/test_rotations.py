"""The first task learns to tell rotations beside its classes, and nothing of that is left when it has ended."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from torch.optim import SGD

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.training.rotations import Rotations, can_rotate
from tests.common import image_stream, mlp, optimized, points_stream, snapshot, strategy_for, tiny_vit, trainable

CONFIG = SDLoRAConfig(rank=2, head="linear", first_epochs=1)


def trained(model, config, stream, *plugins, **kwargs):
    strategy = strategy_for(model, config, train_mb_size=4, plugins=list(plugins), **kwargs)
    for experience in stream:
        torch.manual_seed(7)
        strategy.train(experience)
    return strategy


def same(a, b):
    return all(torch.equal(t, b[name]) for name, t in a.items())


def test_the_loss_is_cross_entropy_over_pairs_of_class_and_rotation():
    model = SDLoRAModel(tiny_vit(), CONFIG)
    model.begin_experience({0: [5, 2, 8]})
    images, rows = torch.randn(6, 3, 32, 32), torch.tensor([0, 2, 1, 1, 0, 2])
    rotations = Rotations(model)
    assert rotations.head.weight.shape == (12, 24)
    expected = 0.0
    for i in range(6):
        k = (i + 3) % 4
        h = model.features(torch.rot90(images[i], k, (1, 2))[None])
        scores = F.linear(h, rotations.head.weight, rotations.head.bias)
        expected += F.cross_entropy(scores, torch.tensor([4 * int(rows[i]) + k])) / 6
    torch.testing.assert_close(rotations.loss(model, images, rows, offset=3), expected)


class Look(SupervisedPlugin):
    """Notes the parameters that train, the loss that is reported, and whether gradients come to all."""

    def __init__(self):
        super().__init__()
        self.beside, self.losses, self.complete = [], [], True

    def before_update(self, strategy, **kwargs):
        own = {id(p) for p in trainable(strategy)}
        self.beside.append(sum(p.numel() for p in optimized(strategy) if id(p) not in own))
        self.losses.append(float(strategy.loss.detach()))
        self.complete &= all(p.grad is not None for p in optimized(strategy))


def test_only_the_first_task_learns_rotations_and_its_classifier_is_thrown_away():
    look = Look()
    strategy = trained(tiny_vit(), CONFIG, image_stream().train_stream, look)
    assert look.beside == [8 * (24 + 1)] * 2 + [0] * 2  # two classes, 24 features; two steps a task
    assert look.complete
    assert set(optimized(strategy)) == set(trainable(strategy))


def test_the_reported_loss_is_that_of_the_classes():
    look, alone = Look(), Look()
    trained(tiny_vit(), CONFIG, image_stream().train_stream[:1], look)
    trained(tiny_vit(), dataclasses.replace(CONFIG, rotations=False), image_stream().train_stream[:1], alone)
    assert look.losses[0] == alone.losses[0]  # before a step has been made
    assert look.losses[1] != alone.losses[1]


def test_the_parameters_of_the_first_task_are_counted():
    strategy = trained(tiny_vit(), CONFIG, image_stream().train_stream[:1])
    without = trained(tiny_vit(), dataclasses.replace(CONFIG, rotations=False), image_stream().train_stream[:1])
    counts = [s.model.parameter_report() for s in (strategy, without)]
    assert counts[0]["trained"] == counts[1]["trained"] + 8 * (24 + 1)
    assert counts[0]["kept"] == counts[1]["kept"]


@pytest.mark.parametrize("config", [SDLoRAConfig.paper(rank=2), SDLoRAConfig.reference(rank=2)])
def test_published_presets_learn_none(config):
    look = Look()
    trained(tiny_vit(), config, image_stream().train_stream, look)
    assert set(look.beside) == {0}


def test_what_is_no_square_image_is_learned_as_without_rotations():
    config = SDLoRAConfig(rank=2, targets="*", head="linear", first_epochs=1)
    models = [
        trained(mlp(), c, points_stream().train_stream[:2]).model
        for c in (config, dataclasses.replace(config, rotations=False))
    ]
    assert same(*map(snapshot, models))
    assert not can_rotate(torch.zeros(3, 32, 48))
    assert can_rotate(torch.zeros(1, 8, 8))


def test_no_rate_lets_its_classifier_run_away():
    before = []

    class Bound(SupervisedPlugin):
        def before_update(self, strategy, **kwargs):
            before.append([p.detach().clone() for p in optimized(strategy)])

        def after_update(self, strategy, **kwargs):
            for new, old in zip(optimized(strategy), before.pop()):
                if old.shape == (8, 24):
                    assert torch.linalg.norm(new - old) <= 0.1001 * torch.linalg.norm(old)

    def fast(groups):
        return SGD(groups, lr=1e4, momentum=0.9)

    strategy = trained(tiny_vit(), CONFIG, image_stream().train_stream[:1], Bound(), optimizer=fast)
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())


def test_an_experience_that_fails_leaves_nothing_of_it():
    class Spoil(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            if strategy.clock.train_exp_iterations == 1:
                assert strategy.plugins[0].state()["rotations"] is not None
                strategy.mb_output.data.fill_(float("nan"))

    strategy = strategy_for(tiny_vit(), CONFIG, train_mb_size=4, plugins=[Spoil()])
    with pytest.raises(FloatingPointError):
        strategy.train(image_stream().train_stream[0])
    assert strategy.plugins[0].state()["rotations"] is None
    assert set(optimized(strategy)) == set(trainable(strategy))
