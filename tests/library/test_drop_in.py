"""In place of another strategy: Avalanche's ways to call it, any module, losses and accuracies that say something."""

import logging
import math
from functools import partial

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import MAC_metrics, accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.models import IncrementalClassifier, MTSimpleMLP, SimpleMLP
from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin
from torch import nn
from torch.nn import CrossEntropyLoss
from torch.optim import SGD

import avalanche_sdlora
from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAPlugin, SDLoRAStrategy
from avalanche_sdlora.training import precision
from avalanche_sdlora.training.loss import CurrentClassesLoss
from tests.common import MLP, Points, mlp, points_stream, strategy_for

ALL = SDLoRAConfig(rank=2, targets="*")


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
    benchmark = points_stream()
    model = small_mlp()
    strategy = SDLoRAStrategy(
        model,
        SGD(model.parameters(), lr=0.05),
        CrossEntropyLoss(),
        train_mb_size=20,
        train_epochs=30,
        eval_mb_size=50,
        plugins=[EarlyStoppingPlugin(patience=2, val_stream_name="test_stream/Task000", metric_name=metric, mode=mode)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loss_metrics(stream=True), loggers=[]),
        eval_every=1,
        config=ALL,
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert 2 < strategy.clock.train_exp_epochs <= 30
    assert strategy.evaluator.get_last_metrics()["Loss_Stream/eval_phase/test_stream/Task000"] < 10


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


# -- any module --------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Three layers of which the last is called otherwise, and something after it."""

    def __init__(self, name="out", end=None, first="body"):
        super().__init__()
        setattr(self, first, nn.Linear(8, 16))
        self.add_module(name, nn.Linear(16, 16))
        self.first, self.name, self.end = first, name, end or nn.Identity()

    def forward(self, x):
        return self.end(self.get_submodule(self.name)(torch.relu(self.get_submodule(self.first)(x))))


@pytest.mark.parametrize("classifier", [None, "out"])
def test_a_classifier_of_any_name_gives_way_to_features(classifier):
    net = Net()
    x = torch.randn(3, 8)
    expected = torch.relu(net.body(x))
    strategy = strategy_for(net, config=ALL, classifier=classifier)
    assert torch.equal(strategy.model.features(x), expected)
    strategy.train(points_stream().train_stream[0])
    assert SDLoRAPlugin(ALL, classifier="out").classifier == "out"


def test_a_model_that_does_not_end_in_its_classifier_is_refused_by_name():
    for net, words in (
        (Net(end=nn.Softmax(1)), "'out' was taken for the classifier of the model, which goes on after it"),
        (Net("last", first="fc"), "'fc' was taken for the classifier"),
    ):
        strategy = strategy_for(net, config=ALL)
        with pytest.raises(ValueError, match=words):
            strategy.train(points_stream().train_stream[0])
    net = Net("last", first="fc")
    assert SDLoRAModel(net, ALL, classifier="last").features(torch.zeros(1, 8)).shape == (1, 16)
    with pytest.raises(ValueError, match=r"classifier='nothing': expected the name of an nn.Linear of Net.*'out'"):
        SDLoRAModel(Net(), ALL, classifier="nothing")


def test_classifiers_of_avalanche_are_taken_off():
    for model in (MTSimpleMLP(8, 16), nn.Sequential(nn.Linear(8, 16)), small_mlp()):
        if isinstance(model, nn.Sequential):
            model = Net("classifier")
            model.classifier = IncrementalClassifier(16)
        adapted = SDLoRAModel(model, ALL).eval()
        adapted.begin_experience({0: [0]})
        assert adapted(torch.zeros(2, 8)).shape == (2, 1)


SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
}


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    kind = name.partition("For")[0].removesuffix("Model")
    if kind == "Swin":
        sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]}
        return transformers.SwinForImageClassification(transformers.SwinConfig(**sizes, window_size=4))
    if kind == "Dinov2":
        sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
        return transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**sizes))
    return getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**SIZES))


def torchvision_model(name):
    models = pytest.importorskip("torchvision.models")
    if name == "vit":
        sizes = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        return models.VisionTransformer(**sizes)
    sizes = {"patch_size": [4, 4], "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": [4, 4]}
    return models.SwinTransformer(**sizes)


MODELS = {
    **{
        name: partial(hugging_face, name)
        for name in (
            "ViTForImageClassification",
            "ViTModel",
            "DeiTForImageClassification",
            "BeitForImageClassification",
            "Dinov2ForImageClassification",
            "SwinForImageClassification",
        )
    },
    **{f"torchvision {name}": partial(torchvision_model, name) for name in ("vit", "swin")},
}


@pytest.mark.parametrize("name", MODELS)
def test_image_models_of_hugging_face_and_torchvision_are_adapted_and_learn(name):
    torch.manual_seed(0)
    images = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2)
    images.targets = (torch.arange(8) % 2).tolist()
    data = as_classification_dataset(images)
    benchmark = nc_benchmark(data, data, 1, task_labels=False)
    strategy = strategy_for(MODELS[name](), SDLoRAConfig(rank=2), train_epochs=2)
    strategy.train(benchmark.train_stream[0])
    assert all(p.grad is not None for p in strategy.model.trainable_groups()["directions"])
    with torch.no_grad():
        assert strategy.model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 2)


def test_two_classifiers_whose_logits_are_averaged_are_named():
    transformers = pytest.importorskip("transformers")
    net = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZES))
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(RuntimeError, match="if it has a classifier still, name that"):
        SDLoRAModel(net, SDLoRAConfig(rank=2)).features(images)
    net = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZES))
    names = ["cls_classifier", "distillation_classifier"]
    assert SDLoRAModel(net, SDLoRAConfig(rank=2), classifier=names).eval().features(images).shape == (2, 24)


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


# -- precision ---------------------------------------------------------------------------------------------------------


def test_auto_takes_bfloat16_where_it_is_multiplied_natively(monkeypatch, caplog):
    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device, native=native: native)
        precision._warn_of_emulation.cache_clear()
        assert precision.autocast_dtype("auto", cpu) is expected
        assert precision.autocast_dtype("float32", cpu) is None
        with caplog.at_level(logging.WARNING, logger="avalanche_sdlora"):
            for _ in range(2):
                assert precision.autocast_dtype("bfloat16", cpu) is torch.bfloat16
        assert len(caplog.records) == (not native)
    assert "about 5 times slower" in caplog.text
    strategy = strategy_for(precision="auto")
    assert strategy.model.autocast is None
    assert strategy_for(precision="bfloat16").model.autocast is torch.bfloat16


def test_a_script_that_says_nothing_computes_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert strategy_for(mlp(), MLP).model.autocast is None
    with pytest.raises(ValueError, match="precision='float16': expected one of 'auto', 'float32', 'bfloat16'"):
        SDLoRAPlugin(precision="float16")
