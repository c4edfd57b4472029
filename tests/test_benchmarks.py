"""The benchmarks hold every image once, in the published order, in the form the backbone expects."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from avalanche.training.supervised import Naive
from PIL import Image
from torchvision.datasets import CIFAR100

from benchmarks import (
    InputSpec,
    cifar100,
    class_order,
    classes_per_experience,
    digits,
    eval_transform,
    make_benchmark,
    split_by_class,
    split_cifar100,
    split_digits,
    train_transform,
)
from benchmarks.images import LabelledImages

SMALL = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = [f"class {label:02d}" for label in range(100)]


def _labels(stream):
    return [set(experience.dataset.targets) for experience in stream]


# inputs


def test_the_input_of_a_model_is_its_own():
    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", depth=1)
    assert InputSpec.of(model) == InputSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert InputSpec.of(torch.nn.ModuleDict({"backbone": model}), size=96).size == 96
    built_for_64 = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", depth=1, img_size=64)
    assert InputSpec.of(built_for_64).size == 64


def test_an_unknown_model_or_specification_is_refused():
    with pytest.raises(ValueError, match="Linear carries no timm configuration"):
        InputSpec.of(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Unknown interpolation 'cubic'"):
        InputSpec(8, (0.5,) * 3, (0.5,) * 3, "cubic")
    with pytest.raises(ValueError, match="Unknown augmentation 'papre'"):
        train_transform(SMALL, "papre")


@pytest.mark.parametrize("augment", ["paper", "flip", "none"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_image_becomes_a_normalised_tensor(augment, mode):
    image = Image.new(mode, (40, 30), "white")
    for transform in (train_transform(SMALL, augment), eval_transform(SMALL, crop=True)):
        out = transform(image)
        assert type(out) is torch.Tensor
        assert out.shape == (3, 16, 16)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, torch.ones_like(out))  # white is (1 - mean) / std


def test_tensors_and_pil_images_come_out_alike():
    pixels = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for crop in (True, False):
        transform = eval_transform(SMALL, crop=crop)
        torch.testing.assert_close(transform(pixels), transform(image))
        assert torch.equal(transform(pixels), transform(pixels))


def test_augmentation_is_random_and_flips_are_only_flips():
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = eval_transform(SMALL, crop=False)(pixels)
    assert torch.equal(train_transform(SMALL, "none")(pixels), plain)
    torch.manual_seed(0)
    flipped = [train_transform(SMALL, "flip")(pixels) for _ in range(20)]
    is_flip = [torch.equal(image, plain.flip(-1)) for image in flipped]
    assert 0 < sum(is_flip) < 20
    assert all(flip or torch.equal(image, plain) for flip, image in zip(is_flip, flipped, strict=True))
    crop = train_transform(SMALL, "paper")
    assert not torch.equal(crop(pixels), crop(pixels))


# splits


@pytest.mark.parametrize(("n_classes", "n_experiences"), [(100, 3), (10, 4), (345, 10)])
def test_a_split_that_loses_classes_is_refused(n_classes, n_experiences):
    with pytest.raises(ValueError, match=rf"divisor of {n_classes}: 1, "):
        classes_per_experience(n_classes, n_experiences)


@pytest.mark.parametrize("n_experiences", [-1, 0, 11])
def test_impossible_lengths_are_refused(n_experiences):
    with pytest.raises(ValueError, match="choose 1 to 10"):
        split_digits(n_experiences, inputs=SMALL)


def test_a_stream_without_some_class_is_refused():
    def images(targets):
        return LabelledImages(torch.zeros(len(targets), 3, 4, 4, dtype=torch.uint8), targets)

    names = {"class_names": ["a", "b"], "source": "", "n_experiences": 1}
    with pytest.raises(ValueError, match=r"test labels must be 0 to 1; missing \[1\]"):
        split_by_class(images([0, 1]), images([0, 0]), **names)
    with pytest.raises(ValueError, match=r"training labels must be 0 to 1; .*unknown \[2\]"):
        split_by_class(images([0, 1, 2]), images([0, 1]), **names)


def test_an_unknown_benchmark_is_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"Did you mean cifar100\? There are: cifar100, digits"):
        make_benchmark("cifar-10", inputs=SMALL)
    with pytest.raises(ValueError, match=r"'xyz'. There are"):
        make_benchmark("xyz", inputs=SMALL)


# digits


@pytest.mark.parametrize("seed", [0, 7])
def test_digits_arrive_in_the_published_order(seed):
    benchmark = make_benchmark("Digits", inputs=SMALL, seed=seed)
    order = np.random.RandomState(seed).permutation(10).tolist()
    expected = [set(order[i : i + 2]) for i in range(0, 10, 2)]
    assert benchmark.class_order == class_order(10, seed) == order
    assert _labels(benchmark.train_stream) == _labels(benchmark.test_stream) == expected
    assert [e.classes_in_this_experience for e in benchmark.train_stream] == expected
    assert benchmark.class_names == tuple("0123456789")


def test_every_digit_is_used_once_and_the_split_ignores_the_seed():
    train, test = digits.load_images()
    counts = {}
    for seed in (0, 1):
        benchmark = split_digits(inputs=InputSpec(8, (0.0,) * 3, (1 / 255,) * 3), seed=seed)
        for name, data in (("train", train), ("test", test)):
            streamed = [
                image.numpy().round().astype(np.uint8).tobytes()
                for experience in benchmark.streams[name]
                for image, *_ in experience.dataset
            ]
            assert sorted(streamed) == sorted(image.numpy().tobytes() for image in data.images)
            counts[name] = len(streamed)
    assert counts["train"] + counts["test"] == 1797
    assert counts["test"] / 1797 == pytest.approx(0.2, abs=0.005)
    per_class = np.bincount(test.targets) / np.bincount(train.targets)
    np.testing.assert_allclose(per_class, 0.25, atol=0.01)


def test_train_and_test_share_no_image():
    train, test = digits.load_images()
    pixels = {image.numpy().tobytes() for image in train.images}
    assert not pixels & {image.numpy().tobytes() for image in test.images}


def test_prepared_digits_equal_those_transformed_one_by_one(monkeypatch):
    prepared = split_digits(inputs=SMALL).test_stream[0].dataset
    monkeypatch.setattr(digits, "_CACHE_LIMIT_BYTES", 0)
    on_the_fly = split_digits(inputs=SMALL).test_stream[0].dataset
    for i in (0, 5):
        torch.testing.assert_close(prepared[i][0], on_the_fly[i][0])
        assert prepared[i][1] == on_the_fly[i][1]


@pytest.mark.parametrize("augment", ["flip", "paper"])
def test_training_is_augmented_and_evaluation_is_not(augment):
    benchmark = split_digits(inputs=SMALL, augment=augment)
    for experience in (benchmark.train_stream[0], benchmark.test_stream[0]):
        training, evaluation = experience.dataset.train(), experience.dataset.eval()
        assert all(torch.equal(evaluation[i][0], evaluation[i][0]) for i in range(8))
        assert not all(torch.equal(training[i][0], training[i][0]) for i in range(8))
    test = benchmark.test_stream[0].dataset  # as it is, without choosing a group
    assert all(torch.equal(test[i][0], test[i][0]) for i in range(8))


class _Spy(torch.nn.Module):
    """A linear classifier that notes what it is given."""

    def __init__(self, n_pixels):
        super().__init__()
        self.head = torch.nn.Linear(n_pixels, 10)
        self.given = {True: [], False: []}

    def forward(self, x):
        self.given[self.training].append(x.detach())
        return self.head(x.flatten(1))


@pytest.mark.parametrize("task_labels", [False, True])
def test_a_strategy_trains_on_it_and_sees_the_right_transforms(task_labels):
    benchmark = split_digits(inputs=SMALL, augment="flip", task_labels=task_labels)
    model = _Spy(3 * 16 * 16)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=64,
        eval_mb_size=64,
        evaluator=None,
    )
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    strategy.eval(benchmark.train_stream[:1])  # training images, evaluation transforms
    first = benchmark.train_stream[0].dataset.eval()
    plain = {first[i][0].numpy().tobytes() for i in range(len(first))}
    evaluated = torch.cat(model.given[False])
    trained = torch.cat(model.given[True])[: len(first)]
    assert {image.numpy().tobytes() for image in evaluated} == plain
    kept = sum(image.numpy().tobytes() in plain for image in trained)
    assert 0.3 * len(first) < kept < 0.7 * len(first)


def test_task_labels_count_the_experiences_and_keep_the_classes():
    benchmark = split_digits(inputs=SMALL, task_labels=True)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert [experience.task_label for experience in stream] == [0, 1, 2, 3, 4]
        assert [experience.dataset[0][2] for experience in stream] == [0, 1, 2, 3, 4]
        assert stream[1].previous_classes == set(benchmark.class_order[:2])
    assert not hasattr(split_digits(inputs=SMALL).train_stream[0], "task_labels")


# CIFAR-100


def _arrays(n_train=3, n_test=2):
    generator = np.random.default_rng(0)
    return {
        "train_x": generator.integers(0, 256, (100 * n_train, 32, 32, 3), dtype=np.uint8),
        "train_y": np.tile(np.arange(100), n_train),
        "test_x": generator.integers(0, 256, (100 * n_test, 32, 32, 3), dtype=np.uint8),
        "test_y": np.repeat(np.arange(100), n_test),
        "classes": np.array(NAMES),
    }


def _check_stream(benchmark, arrays):
    assert [len(labels) for labels in _labels(benchmark.train_stream)] == [10] * 10
    assert benchmark.class_names == tuple(NAMES)
    for name in ("train", "test"):
        per_class = len(arrays[f"{name}_y"]) // 100
        assert [len(experience.dataset) for experience in benchmark.streams[name]] == [10 * per_class] * 10
        image, label = benchmark.streams[name][3].dataset.eval()[4]
        same_class = arrays[f"{name}_x"][arrays[f"{name}_y"] == label]
        candidates = [eval_transform(SMALL, crop=False)(Image.fromarray(pixels)) for pixels in same_class]
        assert any(torch.allclose(image, candidate) for candidate in candidates)


@pytest.mark.parametrize("by_variable", [False, True])
def test_cifar100_from_a_small_file(tmp_path, monkeypatch, by_variable):
    arrays = _arrays()
    np.savez(tmp_path / cifar100.SUBSET_FILE, **arrays)
    monkeypatch.setenv("SDLORA_DATA", str(tmp_path if by_variable else tmp_path / "elsewhere"))
    benchmark = make_benchmark("cifar100", inputs=SMALL, root=None if by_variable else tmp_path)
    _check_stream(benchmark, arrays)
    assert "300 training and 200 test" in benchmark.source


def test_cifar100_from_the_real_file():
    folder = os.environ.get("SDLORA_DATA")
    if not folder or not (Path(folder) / cifar100.SUBSET_FILE).is_file():
        pytest.skip(f"SDLORA_DATA names no folder with {cifar100.SUBSET_FILE}")
    benchmark = split_cifar100(inputs=SMALL)
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [600] * 10
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [200] * 10
    assert benchmark.class_names[0] == "apple"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": None}, "train_x are missing"),
        ({"train_x": np.zeros((300, 32, 32, 3))}, "train images must be .* float64"),
        ({"test_x": np.zeros((200, 3, 32, 32), np.uint8)}, "test images must be"),
        ({"test_y": np.arange(100)}, "test labels must be 200 whole numbers"),
        ({"test_y": np.repeat(np.arange(50), 4)}, "test labels must be 0 to 99"),
        ({"classes": np.array(["same"] * 100)}, "100 distinct class names"),
        ({"train_y": np.array([None] * 300)}, "cannot be read"),
    ],
)
def test_a_file_that_is_not_cifar100_is_refused(tmp_path, change, message):
    arrays = {name: array for name, array in (_arrays() | change).items() if array is not None}
    np.savez(tmp_path / cifar100.SUBSET_FILE, **arrays)
    with pytest.raises(ValueError, match=message):
        split_cifar100(inputs=SMALL, root=tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / cifar100.SUBSET_FILE).write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(ValueError, match="cannot be read"):
        split_cifar100(inputs=SMALL, root=tmp_path)


def test_cifar100_from_torchvision_files(tmp_path, monkeypatch):
    arrays = _arrays()
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    contents = {
        part: {
            "data": arrays[f"{part}_x"].transpose(0, 3, 1, 2).reshape(-1, 3072),
            "fine_labels": arrays[f"{part}_y"].tolist(),
        }
        for part in ("train", "test")
    }
    contents["meta"] = {"fine_label_names": NAMES}
    sums = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    benchmark = split_cifar100(inputs=SMALL, root=tmp_path)
    _check_stream(benchmark, arrays)
    assert "torchvision" in benchmark.source


def test_a_failed_download_says_where_to_get_the_images(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR100, "download", offline)
    with pytest.raises(RuntimeError, match=r"no route to host(.|\n)*cifar-100-python.tar.gz(.|\n)*SDLORA_DATA"):
        split_cifar100(inputs=SMALL, root=tmp_path)
