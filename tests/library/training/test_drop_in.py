"""In place of another strategy: Avalanche's ways to call it, any module, losses and accuracies that say something."""

import math

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import MAC_metrics, accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.models import MTSimpleMLP, SimpleMLP
from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin
from torch.nn import CrossEntropyLoss
from torch.optim import SGD

import avalanche_sdlora
from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAStrategy
from avalanche_sdlora.training.loss import CurrentClassesLoss
from tests.common import Points, plain, points_stream

ALL = plain(rank=2, targets="*")


def small_mlp():
    return SimpleMLP(num_classes=10, input_size=8, hidden_size=16)


def evaluator(*more):
    return EvaluationPlugin(
        *more,
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        loggers=[],
    )


# -- scripts of the shape of Avalanche's examples, with another strategy in them ---------------------------------------


def test_naive():
    benchmark = points_stream()
    model = small_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = CrossEntropyLoss()
    strategy = SDLoRAStrategy(model, optimizer, criterion, 10, 2, 50, "cpu", config=ALL)
    results = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        results.append(strategy.eval(benchmark.test_stream))
    assert strategy.optimizer is optimizer
    assert results[-1]["Top1_Acc_Stream/eval_phase/test_stream/Task000"] > 0.2


def test_evaluation_plugin_metrics_mean_something():
    torch.manual_seed(1)
    benchmark, told = points_stream(), evaluator(MAC_metrics(epoch=True, experience=True))
    model = small_mlp()
    strategy = SDLoRAStrategy(
        model, SGD(model.parameters(), lr=0.1), CrossEntropyLoss(), 10, 3, plugins=[], evaluator=told, config=ALL
    )
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    training = told.get_last_metrics()["Top1_Acc_Epoch/train_phase/train_stream/Task000"]
    assert training > 0.9  # over the two classes that compete
    last = strategy.eval(benchmark.test_stream)
    assert last["MAC_Exp/eval_phase/test_stream/Task000/Exp000"] >= 8 * 16
    unseen = last["Loss_Exp/eval_phase/test_stream/Task000/Exp004"]
    assert unseen == pytest.approx(math.log(10), abs=1e-4)
    assert last["Loss_Stream/eval_phase/test_stream/Task000"] < 10
    assert last["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp004"] == 0


@pytest.mark.parametrize(("metric", "mode"), [("Top1_Acc_Stream", "max"), ("Loss_Stream", "min")])
def test_early_stopping(metric, mode):
    torch.manual_seed(1)
    benchmark = points_stream()
    model = small_mlp()
    strategy = SDLoRAStrategy(
        model,
        SGD(model.parameters(), lr=0.05),
        CrossEntropyLoss(),
        train_mb_size=20,
        train_epochs=30,
        eval_mb_size=50,
        plugins=[EarlyStoppingPlugin(patience=4, val_stream_name="test_stream/Task000", metric_name=metric, mode=mode)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loss_metrics(stream=True), loggers=[]),
        eval_every=1,
        config=ALL,
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert strategy.clock.train_exp_epochs >= 2
    assert strategy.evaluator.get_last_metrics()["Loss_Stream/eval_phase/test_stream/Task000"] < 10
    learned = strategy.eval([benchmark.test_stream[0]])
    assert learned["Top1_Acc_Stream/eval_phase/test_stream/Task000"] > 0.9  # and not the state before training


def test_multi_head():
    benchmark = nc_benchmark(
        Points(), Points(), n_experiences=5, task_labels=True, seed=1234, class_ids_from_zero_in_each_exp=True
    )
    model = MTSimpleMLP(input_size=8, hidden_size=16)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    strategy = SDLoRAStrategy(model, optimizer, CrossEntropyLoss(), 10, 3, 50, evaluator=evaluator(), config=ALL)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    results = strategy.eval(benchmark.test_stream)
    accuracies = [value for name, value in results.items() if name.startswith("Top1_Acc_Exp")]
    assert len(accuracies) == 5
    assert min(accuracies) > 0.6


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guess", "answer"),
    [
        ({"lr": 0.1}, r"no argument 'lr'; write optimizer=functools.partial\(torch.optim.SGD, lr=0.1, momentum=0.9\)"),
        ({"learning_rate": 0.1}, r"SGD, lr=0.1"),
        ({"learning_rat": 0.1}, r"SGD, lr=0.1"),
        ({"weight_decay": 0.1}, r"SGD, lr=0.01, weight_decay=0.1, momentum=0.9"),
        ({"rank": 4}, r"write config=SDLoRAConfig\(rank=4\)"),
        ({"r": 4}, r"write config=SDLoRAConfig\(rank=4\)"),
        ({"epochs": 4}, "write train_epochs=4"),
        ({"batch_size": 4}, "write train_mb_size=4"),
        ({"train_epoch": 4}, "did you mean train_epochs"),
        ({"hed": "lda"}, r"did you mean config=SDLoRAConfig\(head=...\)"),
        ({"autocast": torch.bfloat16}, "write precision='bfloat16'"),
        ({"zzz": 1}, "it takes .*train_epochs"),
    ],
)
def test_a_guess_is_answered_with_what_to_write(guess, answer):
    with pytest.raises(TypeError, match=answer):
        SDLoRAStrategy("no model is made", **guess)


def test_everything_that_a_script_needs_is_at_the_top_level():
    assert avalanche_sdlora.__version__
    assert all(hasattr(avalanche_sdlora, name) for name in avalanche_sdlora.__all__)
    assert {"create_backbone", "OLoRAPlugin", "InfLoRAPlugin", "load_model"} <= set(avalanche_sdlora.__all__)
    model = SDLoRAModel("vit_micro_patch4_32.formula", SDLoRAConfig(rank=2))
    assert model.head.in_features == 128


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_unseen_class_counts_as_an_even_guess(reduction, smoothing):
    criterion = CurrentClassesLoss(CrossEntropyLoss(reduction=reduction, label_smoothing=smoothing))
    criterion.begin_experience([0, 1], [0, 1], torch.device("cpu"))
    criterion.eval()
    logits = torch.tensor([[2.0, 1.0, -1000.0, -1000.0], [0.5, 1.0, -1000.0, -1000.0]])
    known = criterion(logits, torch.tensor([0, 1]))
    mixed = criterion(logits, torch.tensor([0, 3]))
    first = criterion(logits[:1], torch.tensor([0]))
    expected = {
        "mean": (first + math.log(4)) / 2,
        "sum": first + math.log(4),
        "none": torch.stack([first.sum(), torch.tensor(math.log(4))]),
    }[reduction]
    torch.testing.assert_close(mixed, expected)
    assert known.sum() < 1000
    probabilities = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.5, 0.5]])
    if not smoothing:
        torch.testing.assert_close(criterion(logits, probabilities), expected)


def test_replayed_classes_compete_in_the_accuracy_of_training():
    criterion = CurrentClassesLoss(CrossEntropyLoss())
    criterion.begin_experience([2, 3], [0, 1, 2, 3], torch.device("cpu"))
    logits = torch.tensor([[9.0, 0.0, 2.0, 1.0], [9.0, 0.0, 1.0, 2.0]])
    assert criterion.compete(logits, torch.tensor([2, 3])).argmax(1).tolist() == [2, 3]
    assert criterion.compete(logits, torch.tensor([2, 0])).argmax(1).tolist() == [0, 0]
