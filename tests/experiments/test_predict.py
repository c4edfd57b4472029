"""Serving: class names and probabilities from an adapters file and images."""

import sys

import pytest
from PIL import Image

from avalanche_sdlora import save_adapters
from benchmarks import InputSpec
from benchmarks.datasets.digits import load_images
from experiments.arguments import Arguments
from experiments.predict import main, predict, serving_notes
from tests.common import adapted_mlp


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    """The adapters file of a run on digits, all its test images as files, their labels, and the run's results."""
    results, output = finished
    folder = tmp_path_factory.mktemp("images")
    images = load_images()[1]
    for i, image in enumerate(images.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    files = [str(folder / f"{i}.png") for i in range(len(images))]
    return output / "adapters.safetensors", files, images.targets, results


def test_files_are_classified_as_the_run_classified_the_same_images(served):
    adapters, files, labels, results = served
    found = predict(files, str(adapters), top=10, device="cpu")
    assert [one.image for one in found] == files
    right = [one.classes[0] == str(label) for one, label in zip(found, labels, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(results["pooled_acc"])
    assert all(sum(one.probabilities) == pytest.approx(1) for one in found)
    assert all(one.probabilities == sorted(one.probabilities, reverse=True) for one in found)


def test_the_command_prints_names_and_probabilities(served, monkeypatch, capsys):
    adapters, files, *_ = served
    monkeypatch.setattr(sys, "argv", ["predict", *files[:2], "--adapters", str(adapters), "--top", "2"])
    monkeypatch.setenv("COLUMNS", "200")
    main()
    printed = capsys.readouterr().out
    assert files[0] in printed
    assert printed.count("%") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/image.png", "--adapters", "{adapters}"], "/no/image.png cannot be read as an image"),
        (["{image}", "--adapters", "/no/file"], "/no/file: there is no such file"),
        (["{image}", "--adapters", "{image}"], "is damaged, or no safetensors file"),
        (["{image}", "--adapters", "{adapters}", "--top", "0"], "--top 0"),
        (["{image}", "--adapters", "{adapters}", "--weights", "/no/weights"], "--weights /no/weights"),
        (["{image}", "--adapters", "{mlp}"], "belongs to a Sequential, which is no timm model"),
    ],
)
def test_bad_input_is_one_clear_line(served, arguments, message, monkeypatch, tmp_path):
    save_adapters(adapted_mlp(), tmp_path / "mlp")
    places = {"adapters": served[0], "image": served[1][0], "mlp": tmp_path / "mlp"}
    monkeypatch.setattr(sys, "argv", ["predict", *(a.format(**places) for a in arguments)])
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main()


def test_photographs_are_cropped_and_small_images_are_not():
    inputs = InputSpec(32, (0.5,) * 3, (0.5,) * 3)
    crops = [serving_notes(Arguments(name), inputs)["crop"] for name in ("digits", "cifar100", "folder:x", "cub200")]
    assert crops == [False, False, True, True]
