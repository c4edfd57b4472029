"""The images of the second task tell whether what the first one taught the features is kept."""

import copy

import pytest
import torch
from avalanche.core import SupervisedPlugin

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.heads import second_look
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.second_look import helped, surprisal
from tests.common import points_stream, snapshot, strategy_for

AUTO = SDLoRAConfig(rank=2, targets="*", drift="linear", expansion=50)


def images(seed=0, classes=4, each=20, d=12):
    """Labels, and features that say little and much of them."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(classes * each) % classes
    noise = torch.randn(len(y), d, generator=g)
    return y, noise, noise + 3 * torch.nn.functional.one_hot(y, d)


def test_features_help_that_surprise_clearly_less():
    y, noise, apart = images()
    assert helped(noise, apart, y)
    assert not helped(apart, noise, y)
    assert not helped(apart, apart, y)
    assert not helped(noise + 1e-6 * apart, noise, y)
    assert helped(noise, apart, 7 * y + 3)  # whatever the labels are


def test_too_few_classes_or_images_tell_nothing():
    y, noise, apart = images()
    assert not helped(noise, apart, torch.zeros_like(y))
    assert not helped(noise[:4], apart[:4], y[:4])  # one image of each class
    assert not helped(noise[:0], apart[:0], y[:0])


def test_no_image_is_classified_by_itself():
    y, noise, _ = images(classes=2, each=10)
    chance = torch.tensor(2.0).log()
    assert abs(surprisal(noise, y).mean() - chance) < 0.1  # those that know themselves would be right


@pytest.fixture
def begun():
    """A head after its first experience, one that has never seen features that moved, and the second one's images."""
    y, noise, apart = images()
    head, plain = (ClosedFormHead(12, expansion=50, drift="linear") for _ in range(2))
    held = torch.arange(len(y)) % 10 < 4
    head.remember([noise])
    assert head.learn([(apart, y)], 8, held=held, may_go_back=True).kept
    plain.learn([(noise, y)], 8, held=held)
    return head, plain, held, images(seed=1)


def test_taken_back_it_is_the_head_of_the_features_before(begun):
    head, plain, held, (y, noise, apart) = begun
    assert head.second_look.doubts
    assert not plain.second_look.doubts
    fresh = ClosedFormHead(12, expansion=50, drift="linear")
    assert not head.look_again([(apart[:30], noise[:30], y[:30] + 4), (apart[30:], noise[30:], y[30:] + 4)])
    fresh.load_state_dict(head.state_dict())
    for each in (plain, head, fresh):
        each.remember([apart])
        lesson = each.learn([(apart, y + 4)], 8, held=held)
        assert lesson.first_kept is (None if each is plain else False)
        assert not each.second_look.doubts
        assert each.second_look.found is None
        for space, sums in plain.sums.items():
            torch.testing.assert_close(each.sums[space].second, sums.second)
            torch.testing.assert_close(each.sums[space].sums, sums.sums)


def test_kept_it_goes_on_and_nothing_is_doubted_any_more(begun):
    head, _, held, (y, noise, apart) = begun
    unasked = copy.deepcopy(head)
    assert head.look_again([(noise, apart, y + 4)])
    for each in (head, unasked):
        each.remember([apart])
        each.learn([(apart, y + 4)], 8, held=held, may_go_back=True)
        assert not each.second_look.doubts
    torch.testing.assert_close(head.weight, unasked.weight)


class Features(SupervisedPlugin):
    """Notes the features of some images when the training of an experience begins."""

    def __init__(self, x, fails=False):
        super().__init__()
        self.x, self.seen, self.fails = x, [], fails

    def before_training_epoch(self, strategy, **kwargs):
        with torch.no_grad():
            self.seen.append(strategy.model.eval().features(self.x))
        strategy.model.train()

    def after_forward(self, strategy, **kwargs):
        if self.fails and len(self.seen) == 2:
            strategy.mb_output.data.fill_(float("nan"))


def learned(monkeypatch, *, helps, fails=False):
    torch.manual_seed(0)
    x = torch.randn(5, 8)
    features = Features(x, fails)
    monkeypatch.setattr(second_look, "helped", lambda plain, moved, y: helps)
    strategy = strategy_for(
        config=SDLoRAConfig(rank=2, targets="*", expansion=50, first_epochs=1), train_epochs=1, plugins=[features]
    )
    first, second, *_ = points_stream().train_stream
    strategy.train(first)
    return strategy, features, second


@pytest.mark.parametrize("helps", [True, False])
def test_the_second_experience_begins_with_the_features_that_are_kept(helps, monkeypatch):
    strategy, features, second = learned(monkeypatch, helps=helps)
    assert strategy.model.decision["first_kept"] is None
    moved = strategy.model.eval().features(features.x).detach()
    strategy.train(second)
    plain, begins = features.seen
    assert not torch.allclose(plain, moved, atol=1e-4)
    torch.testing.assert_close(begins, moved if helps else plain)
    assert strategy.model.decision["first_kept"] is helps
    if not helps:
        with pytest.raises(ValueError, match="taken back"):
            strategy.model.at_task(1, head="linear")


def test_a_second_experience_that_fails_takes_nothing_back(monkeypatch):
    strategy, features, second = learned(monkeypatch, helps=False, fails=True)
    before = snapshot(strategy.model)
    with pytest.raises(FloatingPointError):
        strategy.train(second)
    after = snapshot(strategy.model)
    assert all(torch.equal(t, after[name]) for name, t in before.items() if not name.startswith("head.row"))
    assert strategy.model.closed_form.second_look.doubts
    assert len(features.seen) == 2
