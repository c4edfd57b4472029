"""Experiences hold all classes or domains, in the published order, and nothing is lost."""

import pytest
import torch

from benchmarks import arrival_order, classes_per_experience, make_benchmark, split_by_class, split_by_domain
from benchmarks.images.memory import LabelledImages
from benchmarks.images.validation import held_out
from tests.benchmarks.samples import SMALL, labels_of


@pytest.mark.parametrize(("n_classes", "n_experiences"), [(100, 3), (10, 4), (345, 10)])
def test_a_split_that_loses_classes_is_refused(n_classes, n_experiences):
    with pytest.raises(ValueError, match=rf"divisor of {n_classes}: 1, "):
        classes_per_experience(n_classes, n_experiences)


@pytest.mark.parametrize("n_experiences", [-1, 0, 11])
def test_impossible_lengths_are_refused(n_experiences):
    with pytest.raises(ValueError, match="choose 1 to 10"):
        make_benchmark("digits", n_experiences=n_experiences, inputs=SMALL)


def test_a_stream_without_some_class_is_refused():
    options = {"order": [1, 0], "n_experiences": 1}
    with pytest.raises(ValueError, match=r"test labels must be 0 to 1; missing \[1\]"):
        split_by_class(black([0, 1]), black([0, 0]), **options)
    with pytest.raises(ValueError, match=r"training labels must be 0 to 1; .*unknown \[2\]"):
        split_by_class(black([0, 1, 2]), black([0, 1]), **options)


def black(targets):
    return LabelledImages(torch.zeros(len(targets), 3, 4, 4, dtype=torch.uint8), targets)


def test_uneven_experiences_lose_no_class_and_differ_by_one():
    sizes = classes_per_experience(242, 10, uneven=True)
    assert sizes == [25, 25] + [24] * 8
    assert classes_per_experience(242, 11, uneven=True) == classes_per_experience(242, 11)


@pytest.mark.parametrize("task_labels", [False, True])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_stream_of_domains_brings_one_domain_after_another(seed, task_labels):
    train_domains, test_domains = ["c", "a", "b", "a", "b", "c", "c"], ["a", "b", "c", "a"]
    arriving = ["abc"[i] for i in arrival_order(3, seed)]
    benchmark = split_by_domain(
        black([0, 1, 0, 0, 1, 1, 0]),
        black([0, 0, 1, 1]),
        train_domains=train_domains,
        test_domains=test_domains,
        order=arriving,
        n_classes=2,
        task_labels=task_labels,
    )
    assert labels_of(benchmark.train_stream) == [{0, 1}] * 3
    for stream, domains in ((benchmark.train_stream, train_domains), (benchmark.test_stream, test_domains)):
        assert [len(e.dataset) for e in stream] == [domains.count(name) for name in arriving]
    if task_labels:
        assert [e.task_label for e in benchmark.train_stream] == [0, 1, 2]


def test_domains_of_one_part_only_are_refused():
    with pytest.raises(ValueError, match=r"Test images are of the domains \['b'\]; expected \['a'\]"):
        split_by_domain(black([0, 1]), black([0, 1]), train_domains="aa", test_domains="bb", order="a", n_classes=2)


def test_an_order_that_leaves_out_a_class_is_refused():
    with pytest.raises(ValueError, match=r"order=\[0, 2\]: expected each label from 0 to 1 once"):
        split_by_class(black([0, 1]), black([0, 1]), order=[0, 2], n_experiences=1)


def test_validation_images_are_a_share_of_each_class_spread_over_its_images():
    chosen = held_out("a" * 10 + "b" * 5 + "c" * 2 + "d", 0.2)
    assert [i for i, out in enumerate(chosen) if out] == [2, 7, 12, 16]  # one of d would be all of d
    assert sum(held_out("a" * 3, 0.9)) == 2


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_share_of_nothing_or_all_is_refused(fraction):
    with pytest.raises(ValueError, match="expected a share of the training images between 0 and 1"):
        held_out("aab", fraction)
