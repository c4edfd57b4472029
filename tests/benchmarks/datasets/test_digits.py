"""The digits arrive once each, in the published order, in the form the backbone expects."""

import numpy as np
import pytest
import torch
from avalanche.training.supervised import Naive

from benchmarks import InputSpec, arrival_order, make_benchmark
from benchmarks.datasets import digits
from benchmarks.images import memory
from tests.benchmarks.samples import SMALL, labels_of


@pytest.mark.parametrize("seed", [0, 7])
def test_digits_arrive_in_the_published_order(seed):
    benchmark = make_benchmark("Digits", inputs=SMALL, seed=seed)
    order = np.random.RandomState(seed).permutation(10).tolist()
    expected = [set(order[i : i + 2]) for i in range(0, 10, 2)]
    assert benchmark.class_order == arrival_order(10, seed) == order
    assert labels_of(benchmark.train_stream) == labels_of(benchmark.test_stream) == expected
    assert [e.classes_in_this_experience for e in benchmark.train_stream] == expected
    assert benchmark.class_names == tuple("0123456789")


def test_every_digit_is_used_once_and_the_split_ignores_the_seed():
    train, test = digits.load_images()
    counts = {}
    for seed in (0, 1):
        benchmark = make_benchmark("digits", inputs=InputSpec(8, (0.0,) * 3, (1 / 255,) * 3), seed=seed)
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


@pytest.mark.parametrize("part", ["train_stream", "test_stream"])
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_prepared_digits_equal_those_transformed_one_by_one(augment, part, monkeypatch):
    numbers = 1797 * 3 * SMALL.size**2  # room for all as float32, as uint8, for none
    found = []
    for room in (4 * numbers, 4 * numbers - 1, numbers - 1):
        monkeypatch.setattr(memory, "_PREPARED_BYTES", room)
        data = getattr(make_benchmark("digits", inputs=SMALL, augment=augment), part)[0].dataset
        torch.manual_seed(0)
        found.append([data[i] for i in range(10)])
    for normalised, resized, on_the_fly in zip(*found):
        torch.testing.assert_close(normalised[0], on_the_fly[0], rtol=0, atol=0.02)  # a flipped image is resized anew
        torch.testing.assert_close(resized[0], normalised[0])
        assert normalised[1:] == resized[1:] == on_the_fly[1:]


@pytest.mark.parametrize("augment", ["flip", "paper"])
def test_training_is_augmented_and_evaluation_is_not(augment):
    benchmark = make_benchmark("digits", inputs=SMALL, augment=augment)
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
    benchmark = make_benchmark("digits", inputs=SMALL, augment="flip", task_labels=task_labels)
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
    benchmark = make_benchmark("digits", inputs=SMALL, task_labels=True)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert [experience.task_label for experience in stream] == [0, 1, 2, 3, 4]
        assert [experience.dataset[0][2] for experience in stream] == [0, 1, 2, 3, 4]
        assert stream[1].previous_classes == set(benchmark.class_order[:2])
    assert not hasattr(make_benchmark("digits", inputs=SMALL).train_stream[0], "task_labels")
