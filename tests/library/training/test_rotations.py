"""The first task learns to tell rotations beside its classes, and nothing of that is left when it has ended."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from torch.optim import SGD

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.training.rotations import Rotations, can_rotate, rotated, turns
from tests.common import image_stream, mlp, optimized, points_stream, snapshot, strategy_for, tiny_vit, trainable

CONFIG = SDLoRAConfig(rank=2, head="ncm", drift="none", held_out=None, first_epochs=1)


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
    features, rows, turned = torch.randn(6, 24), torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([0, 1, 0, 2, 0, 3])
    rotations = Rotations(model)
    assert rotations.head.weight.shape == (12, 24)
    scores = F.linear(features, rotations.head.weight, rotations.head.bias)
    expected = sum(F.cross_entropy(scores[i], 4 * rows[i] + turned[i]) for i in range(6)) / 6
    torch.testing.assert_close(rotations.loss(features, rows, turned), expected)


def test_images_are_rotated_by_all_quarter_turns_in_turn():
    images = torch.randn(7, 3, 8, 8)
    for step in range(4):
        for i, image in enumerate(rotated(images, turns(7, step))):
            torch.testing.assert_close(image, torch.rot90(images[i], (i + step) % 4, (1, 2)))


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


def test_the_reported_loss_is_that_of_the_classes_of_rotated_images():
    batches = []

    class Recompute(SupervisedPlugin):
        def before_training_iteration(self, strategy, **kwargs):
            batches.append(strategy.mb_x)

        def before_backward(self, strategy, **kwargs):
            (images,) = batches
            expected = rotated(images, turns(4, strategy.clock.train_exp_iterations))
            assert torch.equal(strategy.mb_x, expected)
            with torch.no_grad():
                loss = strategy._criterion(strategy.model(expected), strategy.mb_y)
            torch.testing.assert_close(strategy.loss.detach().squeeze(), loss)
            batches.clear()

        def after_backward(self, strategy, **kwargs):
            assert all(p.grad.abs().sum() > 0 for p in strategy.plugins[0]._rotations.parameters())

    trained(tiny_vit(), CONFIG, image_stream().train_stream[:1], Recompute())
    assert not batches


def test_no_pass_is_made_for_them():
    counts = []
    for config in (CONFIG, dataclasses.replace(CONFIG, rotations=False)):
        model, images = SDLoRAModel(tiny_vit(), config), []
        model.backbone.patch_embed.register_forward_hook(lambda _, x, y, images=images: images.append(len(y)))
        trained(model, config, image_stream().train_stream[:1])
        counts.append(images)
        assert not model.head._forward_pre_hooks
    assert counts[0] == counts[1]


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
    config = dataclasses.replace(CONFIG, targets="*")
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
