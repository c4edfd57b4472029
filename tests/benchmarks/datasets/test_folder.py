"""A folder of images becomes a benchmark, or one clear error."""

import pytest
import torch

from benchmarks import arrival_order, make_benchmark
from benchmarks.datasets.folder import find_images
from tests.benchmarks.samples import SMALL, fill


def names(parts):
    return [{label: [path.name for path in paths] for label, paths in part.items()} for part in parts]


def test_one_folder_a_class_is_split_by_name(tmp_path):
    fill(tmp_path, {"b": 12, "a": 5, "c": 2})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "a" / "._00.jpg").touch()
    (tmp_path / "read.me").touch()
    train, test = names(find_images(tmp_path))
    assert list(train) == list(test) == ["a", "b", "c"]
    assert test == {"a": ["00.jpg"], "b": ["00.jpg", "05.PNG", "10.jpg"], "c": ["00.jpg"]}
    assert sorted(train["b"] + test["b"]) == sorted(path.name for path in (tmp_path / "b").iterdir())


def test_the_split_ignores_the_seed_and_the_order_on_disk(tmp_path):
    first, second = (fill(tmp_path / str(seed), {"a": 12, "b": 7}, seed) for seed in (0, 1))
    assert names(find_images(first)) == names(find_images(second))
    for seed in (0, 1):
        benchmark = make_benchmark(f"folder:{first}", inputs=SMALL, n_experiences=2, seed=seed)
        assert benchmark.class_order == arrival_order(2, seed)
        assert [len(e.dataset) for e in benchmark.test_stream] == [(3, 2)[i] for i in arrival_order(2, seed)]


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    fill(tmp_path / "train", {"b": 4, "a": 3})
    fill(tmp_path / "test", {"b": 2, "a": 1}, seed=1)
    benchmark = make_benchmark("Folder", root=tmp_path, inputs=SMALL, n_experiences=1, task_labels=True)
    assert benchmark.class_names == ("a", "b")
    assert [len(stream[0].dataset) for stream in (benchmark.train_stream, benchmark.test_stream)] == [7, 3]
    assert sorted(benchmark.train_stream[0].dataset.targets) == [0] * 3 + [1] * 4
    assert "7 training and 3 test images" in benchmark.source


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, {"train": 5, "test": 5, "ship": 5})
    assert list(find_images(tmp_path)[0]) == ["ship", "test", "train"]


@pytest.mark.parametrize("cache", [None, "disk"])
def test_evaluation_does_not_depend_on_the_cache_and_training_is_augmented(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = fill(tmp_path / "images", {"a": 6, "b": 6})
    plain = make_benchmark(f"folder:{folder}", inputs=SMALL, n_experiences=2)
    cached = make_benchmark(f"folder:{folder}", inputs=SMALL, n_experiences=2, cache=cache, cache_mb=cache and 1)
    for stream in ("train_stream", "test_stream"):
        expected, data = (getattr(b, stream)[1].dataset.eval() for b in (plain, cached))
        for _ in range(2):
            assert all(torch.equal(x[0], y[0]) for x, y in zip(data, expected, strict=True))
    training = cached.train_stream[0].dataset.train()
    assert training[0][0].shape == (3, 16, 16)
    assert not torch.equal(training[0][0], training[0][0])
    assert (tmp_path / "home").exists() == (cache == "disk")  # and few images leave no trace of the look at them
    assert ("reduced to at most 18 pixels" in cached.source) == (cache is not None)


@pytest.mark.parametrize(
    ("tree", "arguments", "message"),
    [
        (None, {}, r"There is no folder \S+; expected ROOT/train/CLASS/IMAGE .* or ROOT/CLASS/IMAGE"),
        ({}, {}, "There are no images in .*; expected ROOT"),
        ({"a": 3, "b": 0}, {}, "no images in the folders b in"),
        ({"a": 3}, {}, "holds one class only, a"),
        ({"a": 3, "b": 1}, {}, "one image is too few to train and test on; classes b"),
        ({"train/a": 2, "train/b": 2, "test/a": 1}, {}, "test lacks the classes b"),
        ({"train/a": 2, "test/b": 2, "test/a": 1}, {}, "train lacks the classes b"),
        ({"train/a": 2, "train/b": 2}, {}, "no images in the folders train"),
        ({"a": 3, "b": 3, "c": 3}, {"n_experiences": 4}, "choose 1 to 3"),
        ({"a": 3, "b": 3}, {"augment": "papre"}, "Unknown augmentation"),
        ({"a": 3, "b": 3}, {"cache": "ram"}, "cache='ram': expected disk"),
        ({"a": 3, "b": 3}, {"cache_mb": 5}, "choose cache=disk"),
        ({"a": 3, "b": 3}, {"cache": "disk", "cache_mb": 0}, "cache_mb=0: expected"),
        ({"a": 3, "b": 3}, {"root": "/elsewhere"}, "both name a folder"),
    ],
)
def test_errors(tmp_path, tree, arguments, message):
    folder = tmp_path / "images"
    if tree is not None:
        folder.mkdir()
        fill(folder, tree)
    with pytest.raises(ValueError, match=message):
        make_benchmark(f"folder:{folder}", inputs=SMALL, **{"n_experiences": 1, **arguments})


def test_a_folder_must_be_named():
    with pytest.raises(ValueError, match="root=None: name the folder"):
        make_benchmark("folder", inputs=SMALL)


def test_a_file_in_the_folder_gives_the_class_order(tmp_path):
    fill(tmp_path, {"a": 2, "b": 2, "c": 2})
    (tmp_path / "class_order.txt").write_text("c\n\n a\nb\n")
    for seed in (0, 1):
        benchmark = make_benchmark(f"folder:{tmp_path}", inputs=SMALL, n_experiences=3, seed=seed)
        assert benchmark.class_names == ("a", "b", "c")
        assert benchmark.class_order == [2, 0, 1]
        assert "class_order.txt" in benchmark.source


def test_any_number_of_experiences_shares_the_classes_out(tmp_path):
    fill(tmp_path, dict.fromkeys("abcde", 2))
    stream = make_benchmark(f"folder:{tmp_path}", inputs=SMALL, n_experiences=3).train_stream
    assert [len(e.classes_in_this_experience) for e in stream] == [2, 2, 1]
