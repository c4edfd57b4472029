"""Any module that ends in a classifier is adapted, and one that does not end there is refused."""

from functools import partial

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.models import IncrementalClassifier, MTSimpleMLP, SimpleMLP
from torch import nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAPlugin
from tests.common import points_stream, strategy_for

ALL = SDLoRAConfig(rank=2, targets="*", expansion=50)


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
    incremental = Net("classifier")
    incremental.classifier = IncrementalClassifier(16)
    for model in (MTSimpleMLP(8, 16), incremental, SimpleMLP(num_classes=10, input_size=8, hidden_size=16)):
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


def transformers_with_torch():
    transformers = pytest.importorskip("transformers")
    if not transformers.is_torch_available():
        pytest.skip("this version of transformers needs a newer torch")
    return transformers


def hugging_face(name):
    transformers = transformers_with_torch()
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
    strategy = strategy_for(MODELS[name](), SDLoRAConfig(rank=2, expansion=50), train_epochs=2)
    strategy.train(benchmark.train_stream[0])
    assert all(p.grad is not None for p in strategy.model.trainable_groups()["directions"])
    with torch.no_grad():
        assert strategy.model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 2)


def test_two_classifiers_whose_logits_are_averaged_are_named():
    transformers = transformers_with_torch()
    net = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZES))
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(RuntimeError, match="if it has a classifier still, name that"):
        SDLoRAModel(net, SDLoRAConfig(rank=2)).features(images)
    net = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZES))
    names = ["cls_classifier", "distillation_classifier"]
    assert SDLoRAModel(net, SDLoRAConfig(rank=2), classifier=names).eval().features(images).shape == (2, 24)
