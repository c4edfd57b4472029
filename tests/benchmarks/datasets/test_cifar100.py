"""CIFAR-100 is found in both of its forms, and what is not CIFAR-100 is refused."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR100

from benchmarks import eval_transform, make_benchmark
from benchmarks.datasets import cifar100
from tests.benchmarks.samples import SMALL, labels_of

NAMES = [f"class {label:02d}" for label in range(100)]


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
    assert [len(labels) for labels in labels_of(benchmark.train_stream)] == [10] * 10
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


def test_cifar100_from_the_real_file(real_cifar100):
    benchmark = make_benchmark("cifar100", inputs=SMALL)
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [600] * 10
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [200] * 10
    assert benchmark.class_names[0] == "apple"


def test_the_real_cifar100_keeps_its_test_images_out_of_validation(real_cifar100):
    benchmark = make_benchmark("cifar100", inputs=SMALL, validation=0.2)
    assert [len(e.dataset) for e in benchmark.train_stream] == [480] * 10
    assert [len(e.dataset) for e in benchmark.test_stream] == [120] * 10
    assert benchmark.digest.startswith("996e840010e824d3")


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
        make_benchmark("cifar100", inputs=SMALL, root=tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / cifar100.SUBSET_FILE).write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(ValueError, match="cannot be read"):
        make_benchmark("cifar100", inputs=SMALL, root=tmp_path)


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
    benchmark = make_benchmark("cifar100", inputs=SMALL, root=tmp_path)
    _check_stream(benchmark, arrays)
    assert "torchvision" in benchmark.source


def test_a_failed_download_says_where_to_get_the_images(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR100, "download", offline)
    with pytest.raises(RuntimeError, match=r"no route to host(.|\n)*cifar-100-python.tar.gz(.|\n)*SDLORA_DATA"):
        make_benchmark("cifar100", inputs=SMALL, root=tmp_path)
