"""Every benchmark is made by one function, with the same options."""

import numpy as np
import pytest

from benchmarks import BENCHMARKS, arrival_order, benchmark_name, check_folder, export_split, make_benchmark
from tests.benchmarks.samples import SMALL, fill, labels_of


def files_of(benchmark):
    return {part: {image.path for image in benchmark.split.part(part)} for part in ("train", "test")}


def test_names():
    assert set(BENCHMARKS) >= {"cifar100", "cub200", "digits", "domainnet", "imagenet_a", "imagenet_r", "omniglot"}
    assert all(benchmark_name(name.upper()) == name for name in BENCHMARKS)
    assert benchmark_name("FOLDER:/Some/Path:x") == "folder:/Some/Path:x"
    for unknown in ("digits:x", "flder:/x"):
        with pytest.raises(ValueError, match=r"there are cars, cifar100, cub200, digits, .*, folder:PATH"):
            benchmark_name(unknown)


def test_an_unknown_benchmark_is_answered_with_near_ones():
    with pytest.raises(
        ValueError, match=r"benchmark 'cifar-10': there are cars, cifar100, .*; did you mean cifar100\?"
    ):
        make_benchmark("cifar-10", inputs=SMALL)
    with pytest.raises(ValueError, match=r"'xyz': there are [^;]*$"):
        make_benchmark("xyz", inputs=SMALL)


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"folder", "digits"}))
def test_missing_images_are_refused_with_their_address_and_layout(name, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR100.download", offline)
    monkeypatch.setattr("torchvision.datasets.Omniglot.download", offline)
    missing = pytest.raises(RuntimeError, match=r"is not in .*https://(.|\n)*so that (.|\n)*SDLORA_DATA")
    with missing:
        make_benchmark(name, inputs=SMALL, root=tmp_path)
    if name not in ("cifar100", "omniglot"):  # which could be downloaded
        with missing:
            check_folder(name, tmp_path)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_validation_images_are_training_images_and_no_test_image_is_left(name, folder):
    root = folder if name == "folder" else None
    options = {"inputs": SMALL, "n_experiences": 1, "root": root}
    whole = make_benchmark(name, **options)
    first, second = (make_benchmark(name, seed=seed, validation=0.25, **options) for seed in (0, 1))

    def contents(benchmark, stream):
        return sorted(image.numpy().tobytes() for image, *_ in benchmark.streams[stream][0].dataset.eval())

    held_out = contents(first, "test")
    assert held_out == contents(second, "test")
    assert sorted(contents(first, "train") + held_out) == contents(whole, "train")
    assert len(held_out) / len(contents(whole, "train")) == pytest.approx(0.25, abs=0.03)
    assert not set(held_out) & set(contents(whole, "test"))
    assert labels_of(first.test_stream) == labels_of(whole.test_stream)
    assert "validation images (0.25 of the training images" in first.source
    assert len({whole.digest, first.digest}) == 2
    assert first.digest == second.digest


def test_a_class_of_one_training_image_cannot_be_validated_on(tmp_path):
    fill(tmp_path, {"a": 5, "b": 2})
    with pytest.raises(ValueError, match=r"validation=0.5.*no test images of the classes b"):
        make_benchmark("folder", root=tmp_path, inputs=SMALL, n_experiences=1, validation=0.5)


def test_an_exported_split_makes_the_same_streams_from_another_copy(folder, tmp_path):
    options = {"inputs": SMALL, "n_experiences": 3}
    made = make_benchmark(f"folder:{folder}", validation=0.2, **options)
    export_split(made, tmp_path / "split.json")
    copy = fill(tmp_path / "copy", {"a": 14, "b": 8, "c": 6, "d": 1})
    again = make_benchmark(f"folder:{copy}", split=tmp_path / "split.json", **options)
    assert files_of(again) == files_of(made)
    assert (again.digest, again.class_names, again.class_order) == (made.digest, made.class_names, made.class_order)
    (copy / "b" / "01.PNG").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ images: b/01.PNG"):
        make_benchmark(f"folder:{copy}", split=tmp_path / "split.json", **options)


def test_images_in_memory_have_a_digest_and_no_split_file(tmp_path):
    benchmark = make_benchmark("digits", inputs=SMALL)
    assert len(benchmark.digest) == 64
    assert (benchmark.split, benchmark.skipped, benchmark.converted) == (None, [], {})
    assert make_benchmark("digits", inputs=SMALL, n_experiences=2, seed=1).digest == benchmark.digest
    with pytest.raises(ValueError, match=f"handwritten digits: .* not image files; their digest is {benchmark.digest}"):
        export_split(benchmark, tmp_path / "split.json")


@pytest.mark.parametrize("as_file", [False, True])
def test_a_class_order_can_be_given(tmp_path, as_file):
    order = [str(digit) for digit in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    (tmp_path / "order").write_text("\n".join(order))
    benchmark = make_benchmark("digits", inputs=SMALL, class_order=tmp_path / "order" if as_file else order)
    assert benchmark.class_order == [int(digit) for digit in order]
    assert labels_of(benchmark.train_stream)[0] == {3, 1}


def test_the_order_of_lamda_pilot_is_a_file_of_numpy(tmp_path):
    order = np.random.RandomState(1993).permutation(10)  # as numpy.random.seed and numpy.random.permutation give
    np.save(tmp_path / "order.npy", order)
    benchmark = make_benchmark("digits", inputs=SMALL, class_order=tmp_path / "order.npy")
    assert benchmark.class_order == order.tolist() == arrival_order(10, 1993)
    for wrong in (np.arange(9), np.arange(10.0), np.zeros(10, int), np.arange(10)[None]):
        np.save(tmp_path / "order.npy", wrong)
        with pytest.raises(ValueError, match=r"order.npy' must hold each label from 0 to 9 once"):
            make_benchmark("digits", inputs=SMALL, class_order=tmp_path / "order.npy")
    (tmp_path / "order.npy").write_text("3 1")
    with pytest.raises(ValueError, match=r"order.npy' cannot be read"):
        make_benchmark("digits", inputs=SMALL, class_order=tmp_path / "order.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "disk"}, "digits decodes no files"),
        ({"split": "split.json"}, "the images of digits are no files"),
        ({"augment": "papre"}, "Unknown augmentation"),
        ({"validation": 1.5}, "validation=1.5: expected"),
        ({"class_order": ["0", "x"]}, "each of the 10 classes once; missing: 1, 2, 3, 4, 5 and 4 more; unknown: x"),
        ({"class_order": [*"0123456789", "9"]}, "some come twice"),
        ({"class_order": "/no/such/file"}, "'/no/such/file' cannot be read"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ValueError, match=message):
        make_benchmark("digits", inputs=SMALL, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experiences": 4}, "choose 1 to 3"),
        ({"class_order": ["a", "b", "x"]}, "missing: c; unknown: x"),
        ({"validation": 0.0}, "validation=0.0: expected"),
        ({"cache": "disk", "cache_mb": -1}, "cache_mb=-1: expected"),
        ({"split": "/no/such/file"}, "/no/such/file cannot be read as a split"),
    ],
)
def test_options_are_refused_before_every_image_is_looked_at(folder, monkeypatch, options, message):
    monkeypatch.setattr("benchmarks.images.files.look_at", lambda *a: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        make_benchmark(f"folder:{folder}", **{"inputs": SMALL, "n_experiences": 3, **options})
