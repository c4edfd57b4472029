"""A first experience that is learned longer, and slower adaptation after it."""

import pytest
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch.optim import SGD

from avalanche_sdlora import FirstSessionPlugin, SDLoRAModel, SDLoRAPlugin, SDLoRAStrategy
from tests.common import MLP, mlp, points_stream


class Watch(SupervisedPlugin):
    """The epochs of each experience, and the rates at the end of it."""

    def __init__(self):
        super().__init__()
        self.epochs, self.rates = [], []

    def before_training_exp(self, strategy, **kwargs):
        self.epochs.append(0)

    def after_training_epoch(self, strategy, **kwargs):
        self.epochs[-1] += 1

    def after_training_exp(self, strategy, **kwargs):
        self.rates.append([group["lr"] for group in strategy.optimizer.param_groups])


def watched(*args):
    watch = Watch()
    plugins = [FirstSessionPlugin(*args), watch]
    strategy = SDLoRAStrategy(
        model=mlp(), config=MLP, train_mb_size=10, train_epochs=2, plugins=plugins, evaluator=None
    )
    for experience in points_stream().train_stream[:3]:
        strategy.train(experience, eval_streams=[])
    return watch


def test_the_first_experience_alone_has_its_own_number_of_epochs():
    assert watched(3).epochs == [3, 2, 2]
    assert watched(1).epochs == [1, 2, 2]
    assert watched(None, 0.005).epochs == [2, 2, 2]


def test_later_experiences_move_all_but_the_head_at_their_own_rate():
    assert watched(None, 0.005).rates == [[0.01, 0.01, 0.01], [0.005, 0.005, 0.01], [0.005, 0.005, 0.01]]
    assert watched(3).rates == 3 * [[0.01, 0.01, 0.01]]


def test_a_single_group_has_the_later_rate_as_a_whole():
    watch, model = Watch(), SDLoRAModel(mlp(), MLP)
    plugins = [SDLoRAPlugin(), FirstSessionPlugin(later_rate=0.1), watch]
    strategy = Naive(model=model, optimizer=SGD(model.parameters(), lr=0.2), plugins=plugins, evaluator=None)
    for experience in points_stream().train_stream[:2]:
        strategy.train(experience, eval_streams=[])
    assert watch.rates == [[0.2], [0.1]]


def test_the_strategy_has_its_own_number_of_epochs_back():
    watch = Watch()
    strategy = SDLoRAStrategy(
        model=mlp(),
        config=MLP,
        train_mb_size=10,
        train_epochs=2,
        plugins=[FirstSessionPlugin(4), watch],
        evaluator=None,
    )
    first, second, *_ = points_stream().train_stream
    strategy.train(first, eval_streams=[])
    assert strategy.train_epochs == 2
    strategy.train_epochs = 3
    strategy.train(second, eval_streams=[])
    assert watch.epochs == [4, 3]


def test_a_rate_is_never_raised():
    assert watched(None, 0.5).rates == 3 * [[0.01, 0.01, 0.01]]


def test_it_must_come_after_the_method():
    strategy = Naive(
        model=(model := SDLoRAModel(mlp(), MLP)),
        optimizer=SGD(model.parameters(), lr=0.2),
        plugins=[FirstSessionPlugin(3), SDLoRAPlugin()],
        evaluator=None,
    )
    with pytest.raises(ValueError, match="expected an SDLoRAPlugin before FirstSessionPlugin"):
        strategy.train(points_stream().train_stream[0])


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"epochs": 2.0}, {"later_rate": 0.0}, {"later_rate": -1.0}, {"later_rate": "0.1"}]
)
def test_numbers_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        FirstSessionPlugin(**wrong)
