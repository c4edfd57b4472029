"""Which task an experience belongs to, which classes are learned, and what a stream may look like."""

import dataclasses
import logging

import pytest
import torch
from avalanche.benchmarks import (
    benchmark_from_datasets,
    class_incremental_benchmark,
    ni_benchmark,
    task_incremental_benchmark,
)
from avalanche.benchmarks.scenarios import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training import Cumulative, JointTraining, Naive
from avalanche.training.plugins import EWCPlugin, GDumbPlugin
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAPlugin
from avalanche_sdlora.training.loss import CurrentClassesLoss
from tests.common import MLP, Points, mlp, optimized, points_stream, snapshot, strategy_for, trainable

LDA = dataclasses.replace(MLP, head="lda", drift="none")
FOLLOWING = dataclasses.replace(MLP, head="ridge", drift="linear")


def template(kind, config=MLP, model=None, **settings):
    model = mlp() if model is None else model
    settings = {"train_mb_size": 10, "train_epochs": 3, "evaluator": None, **settings}
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    plugins = [SDLoRAPlugin(config), *settings.pop("plugins", [])]
    return kind(model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), plugins=plugins, **settings)


def accuracy(model, stream):
    hits = []
    model.eval()
    for experience in stream:
        for x, y, *labels in DataLoader(experience.dataset.eval(), batch_size=200):
            hits.append((model(x, *labels).argmax(1) == y).double().mean())
    return sum(hits) / len(hits)


def pieces(values, targets):
    data = TensorDataset(values, torch.tensor(targets))
    data.targets = targets
    return as_classification_dataset(data)


# -- classes come from the data that is trained on ---------------------------------------------------------------------


@pytest.mark.parametrize("config", [MLP, LDA, FOLLOWING], ids=["linear", "lda", "following"])
def test_joint_training_learns_the_classes_of_all_experiences(config):
    benchmark = points_stream()
    strategy = template(JointTraining, config)
    strategy.train(benchmark.train_stream)
    assert len(strategy.model.head.weight) == 10
    assert len(strategy.model.magnitudes) == 1
    assert accuracy(strategy.model, benchmark.test_stream) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("config", [LDA, FOLLOWING], ids=["lda", "following"])
def test_cumulative_training_counts_every_sample_once(config):
    benchmark, strategy = points_stream(), template(Cumulative, config)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert strategy.model.closed_form.statistics.counts.tolist() == [20.0] * 10
    assert accuracy(strategy.model, benchmark.test_stream) > 0.9
    once = SDLoRAModel(mlp(), config)
    once.load_state_dict(strategy.model.state_dict())
    data = DataLoader(strategy.dataset.eval(), batch_size=200)
    with torch.no_grad():
        x, y, *_ = next(iter(data))
        once.closed_form.learn([(strategy.model.features(x), y)], 10, anew=True)
    torch.testing.assert_close(once.closed_form.weight, strategy.model.closed_form.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [MLP, LDA], ids=["linear", "lda"])
def test_a_buffer_in_place_of_the_data_gives_the_classes(config):
    benchmark, strategy = points_stream(), template(Naive, config, plugins=[GDumbPlugin(mem_size=100)])
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience)
        assert set(optimized(strategy)) == set(trainable(strategy))
    assert len(strategy.model.head.weight) == 6
    assert accuracy(strategy.model, benchmark.test_stream[:3]) > 0.7


def test_targets_that_are_not_being_learned_are_an_error_at_the_first_batch():
    class Other(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            strategy.mbatch[1][0] = 7

    strategy = strategy_for(plugins=[Other()])
    with pytest.raises(ValueError, match=r"the classes \[7\] are not among those being learned, \[0, 1\]"):
        strategy.train(points_stream().train_stream[0])


# -- when a new task begins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "directions"), [("auto", 1), ("every", 4), ("manual", 1)])
def test_the_same_experience_again_goes_on_with_its_direction(how, directions):
    strategy, stream = strategy_for(config=dataclasses.replace(MLP, new_task=how)), points_stream().train_stream
    for _ in range(4):
        strategy.train(stream[0])
        assert set(optimized(strategy)) == set(trainable(strategy))
    assert len(strategy.model.magnitudes) == directions
    strategy.train(stream[1])
    assert len(strategy.model.magnitudes) == (1 if how == "manual" else directions + 1)


def test_a_task_begins_when_it_is_told_to():
    strategy, stream = strategy_for(config=dataclasses.replace(MLP, new_task="manual")), points_stream().train_stream
    plugin = next(p for p in strategy.plugins if isinstance(p, SDLoRAPlugin))
    for position, told in ((0, False), (1, False), (2, True), (3, False)):
        if told:
            plugin.begin_task()
        strategy.train(stream[position])
    assert len(strategy.model.magnitudes) == 2
    assert len(strategy.model.head.weight) == 8


@pytest.mark.parametrize("boundaries", [True, False])
@pytest.mark.parametrize("size", [10, 3])
def test_the_parts_of_an_online_stream_share_the_direction_of_their_experience(boundaries, size):
    benchmark, strategy = points_stream(), strategy_for(config=LDA)
    online = split_online_stream(
        benchmark.train_stream[:3], experience_size=size, access_task_boundaries=boundaries, seed=1
    )
    for part in online:
        strategy.train(part)
        assert set(optimized(strategy)) == set(trainable(strategy))
    assert len(strategy.model.magnitudes) == 3
    assert strategy.model.closed_form.statistics.counts.tolist() == [20.0] * 6
    assert accuracy(strategy.model, benchmark.test_stream[:3]) > 0.8


def test_a_new_domain_begins_a_task_also_where_it_looks_alike_from_outside():
    strategy = strategy_for()
    for shift in (0.0, 1.0, 2.0):  # three benchmarks of one experience each, with equal labels
        values, targets = torch.randn(20, 8) + shift, [0, 1] * 10
        strategy.train(benchmark_from_datasets(train=[pieces(values, targets)]).train_stream[0])
    assert len(strategy.model.magnitudes) == 3


@pytest.mark.parametrize("config", [LDA, FOLLOWING], ids=["lda", "following"])
def test_an_experience_learned_again_counts_once(config):
    benchmark, strategy = points_stream(), strategy_for(config=config)
    for position in (0, 1, 1):
        strategy.train(benchmark.train_stream[position])
    statistics = strategy.model.closed_form.statistics
    assert statistics.counts.tolist() == [20.0] * 4
    assert accuracy(strategy.model, benchmark.test_stream[:2]) > 0.8
    if config is LDA:  # its statistics are those of the present features
        x, y = next(iter(DataLoader(benchmark.train_stream[1].dataset.eval(), batch_size=40)))[:2]
        with torch.no_grad():
            z = strategy.model.features(x).double()
        sums = torch.stack([z[y == c].sum(0) for c in (2, 3)])
        torch.testing.assert_close(statistics.sums[2:], sums, rtol=1e-4, atol=1e-4)


def test_a_bank_of_full_rank_is_recompressed_without_loss():
    strategy, stream = strategy_for(config=dataclasses.replace(MLP, rank=5, new_task="every")), points_stream()
    for position in (0, 1, 2, 3, 4, 0, 1):
        strategy.train(stream.train_stream[position])
    assert max(record.error for record in strategy.model.reductions) < 1e-5
    assert [record.rank_after for record in strategy.model.reductions] == [8 + 5, 16 + 5]  # of 8 and 16 inputs
    assert set(optimized(strategy)) == set(trainable(strategy))


@pytest.mark.parametrize(
    "reduce", [{"energy": 0.5}, {"kd_tolerance": 2.0}, {"rank_budget": 4}, {"directions": "first"}]
)
def test_going_on_works_whatever_reduction_left(reduce):
    strategy, stream = strategy_for(config=dataclasses.replace(MLP, **reduce)), points_stream().train_stream
    for position in (0, 0, 1, 1, 2, 2):
        strategy.train(stream[position])
        assert set(optimized(strategy)) == set(trainable(strategy))


# -- labels that restart -----------------------------------------------------------------------------------------------


def restarting():
    whole, experiences = Points(6), []
    x, y = whole.tensors
    for k in range(3):
        own = (y // 2) == k
        experiences.append(pieces(x[own], (y[own] - 2 * k).tolist()))
    return task_incremental_benchmark(benchmark_from_datasets(train=experiences, test=experiences))


@pytest.mark.parametrize(("setting", "rows"), [("auto", 6), (True, 6), (False, 2)])
def test_labels_that_restart_are_found_whatever_made_the_stream(setting, rows, caplog):
    benchmark = restarting()
    strategy = strategy_for(config=dataclasses.replace(MLP, multi_head=setting), train_epochs=4)
    with caplog.at_level(logging.WARNING, "avalanche_sdlora"):
        strategy.train(benchmark.train_stream)
    assert len(strategy.model.head.weight) == rows
    assert ("multi_head=False" in caplog.text) == (setting == "auto")
    if rows == 6:
        assert accuracy(strategy.model, benchmark.test_stream) > 0.8


def test_domains_with_task_labels_share_the_rows_of_their_classes():
    strategy = strategy_for()
    strategy.train(ni_benchmark(Points(), Points(), 3, task_labels=True).train_stream)
    assert len(strategy.model.head.weight) == 10


def test_many_heads_without_task_labels_are_refused():
    with pytest.raises(ValueError, match="multi_head=True with use_task_labels=False"):
        SDLoRAConfig(multi_head=True, use_task_labels=False)


# -- criteria ----------------------------------------------------------------------------------------------------------


def loss_of(criterion, current=(2, 3), seen=(0, 1, 2, 3)):
    loss = CurrentClassesLoss(criterion).train()
    loss.begin_experience(current, seen, torch.device("cpu"))
    return loss


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_the_competing_columns(weighted, reduction, smoothing):
    torch.manual_seed(0)
    settings = {"reduction": reduction, "label_smoothing": smoothing}
    weight = torch.rand(10) if weighted else None  # of the whole stream
    criterion = nn.CrossEntropyLoss(weight, **settings)
    own = nn.CrossEntropyLoss(weight[2:4] if weighted else None, **settings)
    logits, targets = torch.randn(6, 4), torch.tensor([2, 3, 3, -100, 2, 2])
    columns = torch.where(targets < 0, targets, targets - 2)
    torch.testing.assert_close(loss_of(criterion)(logits, targets), own(logits[:, 2:4], columns))
    old = torch.tensor([1, 3, 3, -100, 0, 2])  # a batch that holds old classes is learned over all classes seen
    whole = nn.CrossEntropyLoss(weight[:4] if weighted else None, **settings)
    torch.testing.assert_close(loss_of(criterion)(logits, old), whole(logits, old))
    if weighted or smoothing:  # in evaluation over those seen
        torch.testing.assert_close(loss_of(criterion).eval()(logits, targets), whole(logits, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_targets_are_learned_over_the_competing_classes(smoothing):
    torch.manual_seed(0)
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
    logits, mixed = torch.randn(6, 4), torch.rand(6, 2).softmax(1)
    for width in (4, 10):  # of the classes so far, or of the whole stream
        targets = torch.zeros(6, width)
        targets[:, 2:4] = mixed
        torch.testing.assert_close(loss_of(criterion)(logits, targets), criterion(logits[:, 2:4], mixed))
    targets = torch.zeros(6, 10)
    targets[:, 8] = 1.0
    with pytest.raises(ValueError, match=r"the classes \[8\]"):
        loss_of(criterion)(logits, targets)


def test_a_strategy_trains_on_mixed_targets():
    class Mix(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            x, y = strategy.mbatch[:2]
            soft = nn.functional.one_hot(y, 10).float()
            strategy.mbatch[0], strategy.mbatch[1] = 0.7 * x + 0.3 * x.flip(0), 0.7 * soft + 0.3 * soft.flip(0)

    benchmark = points_stream()
    strategy = strategy_for(config=LDA, plugins=[Mix()], criterion=nn.CrossEntropyLoss(label_smoothing=0.1))
    strategy.train(benchmark.train_stream)
    assert accuracy(strategy.model, benchmark.test_stream) > 0.8


# -- evaluation inside training ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["epoch", "iteration", "experience"])
def test_periodic_evaluation_changes_nothing_that_is_learned(mode):
    learned = []
    for every in (-1, 1):
        config = dataclasses.replace(MLP, directions="single")
        ewc = EWCPlugin(10.0, mode="online", decay_factor=1.0)
        strategy = strategy_for(config=config, plugins=[ewc], eval_every=every, peval_mode=mode, train_epochs=2)
        torch.manual_seed(0)
        benchmark = points_stream()
        for experience in benchmark.train_stream[:3]:
            torch.manual_seed(experience.current_experience)
            strategy.train(experience, eval_streams=[benchmark.test_stream])  # with classes not seen yet
        importances = {name: data.data.clone() for name, data in ewc.importances[2].items()}
        learned.append((snapshot(strategy.model), importances))
    for one, other in zip(*learned):
        assert one.keys() == other.keys()
        assert all(torch.equal(t, other[name]) for name, t in one.items())


# -- what is refused, and what is not ----------------------------------------------------------------------------------


def test_a_second_plugin_is_refused():
    with pytest.raises(ValueError, match="2 SDLoRAPlugins"):
        strategy_for(plugins=[SDLoRAPlugin()])
    with pytest.raises(ValueError, match="2 SDLoRAPlugins"):
        template(Naive, plugins=[SDLoRAPlugin(MLP)]).train(points_stream().train_stream)


def test_classes_left_out_on_purpose_can_be():
    data = as_classification_dataset(Points())
    lossy = class_incremental_benchmark({"train": data}, class_order=[*range(10)], num_experiences=3)
    with pytest.raises(ValueError, match="check_stream=False"):
        strategy_for().train(lossy.train_stream)
    strategy = strategy_for(check_stream=False)
    strategy.train(lossy.train_stream)
    assert len(strategy.model.head.weight) == 9


@pytest.mark.parametrize("value", [{"image": torch.zeros(8)}, "text"])
def test_inputs_that_are_no_tensors_get_a_sentence(value):
    class Odd(Points):
        def __getitem__(self, index):
            return value, self.targets[index]

    benchmark = benchmark_from_datasets(train=[as_classification_dataset(Odd(2))])
    with pytest.raises(ValueError, match=f"of type {type(value).__name__}; expected tensors"):
        strategy_for().train(benchmark.train_stream)


def test_one_class_with_the_linear_head_is_told(caplog):
    with caplog.at_level(logging.WARNING, "avalanche_sdlora"):
        strategy_for(config=LDA).train(points_stream(10).train_stream[0])
        assert not caplog.text
        strategy_for().train(points_stream(10).train_stream)
    assert caplog.text.count("it teaches nothing") == 1


# -- the optimizer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda g: SGD(g, lr=0.1, momentum=0.9, weight_decay=0.1), Adam])
def test_rows_of_old_classes_do_not_move_by_what_is_left_in_the_optimizer(make):
    strategy, stream = strategy_for(optimizer=make, reset_optimizer_state=False), points_stream().train_stream
    strategy.train(stream[0])
    old = strategy.model.head.weight.detach().clone()
    magnitudes = strategy.model.magnitudes.alpha.detach().clone()
    strategy.train(stream[1])
    assert torch.equal(strategy.model.head.weight[:2], old)
    assert not torch.equal(strategy.model.magnitudes.alpha[:1], magnitudes)


@pytest.mark.parametrize("moment", ["before_training_epoch", "after_training_epoch"])
def test_the_optimizer_follows_a_state_that_is_loaded(moment):
    stream, other = points_stream().train_stream, strategy_for()
    other.train(stream[:3])
    state = other.model.state_dict()

    class Load(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            setattr(self, moment, self._load)

        def _load(self, strategy, **kwargs):
            if strategy.clock.train_exp_epochs == 0:
                strategy.model.load_state_dict(state)

        def before_backward(self, strategy, **kwargs):
            if strategy.clock.train_exp_epochs == 1:
                assert set(optimized(strategy)) == set(trainable(strategy))

    strategy = strategy_for(plugins=[Load()], train_epochs=2)
    strategy.train(stream[0])
    assert len(strategy.model.magnitudes) == 3
