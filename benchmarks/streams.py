"""The order of arrival, the classes of each experience, and Avalanche's streams made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from avalanche.benchmarks import (
    CLScenario,
    benchmark_from_datasets,
    class_incremental_benchmark,
    task_incremental_benchmark,
)
from avalanche.benchmarks.scenarios import with_classes_timeline
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torchvision.transforms import v2


def arrival_order(n: int, seed: int) -> list[int]:
    """The order in which classes or domains arrive: ``RandomState(seed).permutation(n)``, as in the public codes."""
    return [int(place) for place in np.random.RandomState(seed).permutation(n)]


def classes_per_experience(n_classes: int, n_experiences: int, *, uneven: bool = False) -> list[int]:
    """The number of classes of each experience: equally many, none left over.

    Args:
        n_classes: Number of classes.
        n_experiences: Number of experiences.
        uneven: Where they are not equally many, let the first experiences bring one more than the others.

    Raises:
        ValueError: There are fewer than one or more than ``n_classes`` experiences, or classes would be left
            over.
    """
    if not 1 <= n_experiences <= n_classes:
        raise ValueError(f"{n_classes} classes cannot make {n_experiences} experiences; choose 1 to {n_classes}.")
    size, left = divmod(n_classes, n_experiences)
    if left and not uneven:
        divisors = [n for n in range(1, n_classes + 1) if n_classes % n == 0]
        raise ValueError(
            f"{n_classes} classes in {n_experiences} experiences would leave {left} "
            f"out; choose a divisor of {n_classes}: {', '.join(map(str, divisors))}."
        )
    return [size + (i < left) for i in range(n_experiences)]


def split_by_class(
    train: Any,
    test: Any,
    *,
    order: Sequence[int],
    n_experiences: int,
    uneven: bool = False,
    train_transform: v2.Transform | None = None,
    eval_transform: v2.Transform | None = None,
    task_labels: bool = False,
) -> CLScenario:
    """Make two streams, ``train`` and ``test``, whose experiences bring disjoint classes.

    Args:
        train: Training images, a data set with labels ``0 .. C-1`` in ``targets``; the labels stay as they are.
        test: Test images of the same classes.
        order: The ``C`` labels in the order of their arrival, for instance ``arrival_order(C, seed)``.
        n_experiences: Length of the streams; a divisor of ``C``.
        uneven: As for :func:`classes_per_experience`; any length is possible then.
        train_transform: For training; the group ``train`` of both streams.
        eval_transform: For evaluation; the group ``eval`` of both streams. None leaves images as they are.
        task_labels: Give experience ``i`` the task label ``i`` (task-incremental) instead of none.

    Raises:
        ValueError: The split is impossible, or a part lacks a class or has one too many.
    """
    sizes = classes_per_experience(len(order), n_experiences, uneven=uneven)
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"order={list(order)}: expected each label from 0 to {len(order) - 1} once.")
    _check_parts(train, test, len(order))
    scenario = class_incremental_benchmark(
        _datasets(train, test, train_transform, eval_transform), class_order=list(order), num_classes_per_exp=sizes
    )
    return _finished(scenario, train, test, task_labels)


def split_by_domain(
    train: Any,
    test: Any,
    *,
    train_domains: Sequence[str],
    test_domains: Sequence[str],
    order: Sequence[str],
    n_classes: int,
    train_transform: v2.Transform | None = None,
    eval_transform: v2.Transform | None = None,
    task_labels: bool = False,
) -> CLScenario:
    """Make two streams, ``train`` and ``test``, whose experiences bring one domain each, with all of its classes.

    Args:
        train: Training images, a data set with labels ``0 .. n_classes-1`` in ``targets``.
        test: Test images of the same classes and domains.
        train_domains: The domain of each training image.
        test_domains: The domain of each test image.
        order: The names of the domains in the order of their arrival.
        n_classes: The number of classes.
        train_transform: For training; the group ``train`` of both streams.
        eval_transform: For evaluation; the group ``eval`` of both streams. None leaves images as they are.
        task_labels: Give experience ``i`` the task label ``i`` instead of none.

    Raises:
        ValueError: A part lacks a class or a domain, or has one too many.
    """
    for what, domains in (("Training", train_domains), ("Test", test_domains)):
        if sorted(set(domains)) != sorted(order):
            raise ValueError(f"{what} images are of the domains {sorted(set(domains))}; expected {sorted(order)}.")
    _check_parts(train, test, n_classes)
    streams = {}
    for part, data in _datasets(train, test, train_transform, eval_transform).items():
        places: dict[str, list[int]] = {name: [] for name in order}
        for i, domain in enumerate(train_domains if part == "train" else test_domains):
            places[domain].append(i)
        streams[part] = [data.subset(places[name]) for name in order]
    return _finished(with_classes_timeline(benchmark_from_datasets(**streams)), train, test, task_labels)


def _datasets(train: Any, test: Any, train_transform: Any, eval_transform: Any) -> dict[str, Any]:
    groups = {"train": train_transform, "eval": eval_transform}
    return {
        "train": as_classification_dataset(train, TransformGroups(groups)),
        "test": as_classification_dataset(test, TransformGroups(groups)).eval(),
    }


def _finished(scenario: CLScenario, train: Any, test: Any, task_labels: bool) -> CLScenario:
    """Give task labels if they are wanted, and check that every image is in its stream."""
    if task_labels:
        # Avalanche drops the timeline of the classes when it adds the task labels.
        scenario = with_classes_timeline(task_incremental_benchmark(scenario))
    for stream, images in ((scenario.train_stream, train), (scenario.test_stream, test)):
        held = sum(len(experience.dataset) for experience in stream)
        if held != len(images):
            raise ValueError(f"The {stream.name} stream holds {held} of {len(images)} images.")
    return scenario


def _check_parts(train: Any, test: Any, n_classes: int) -> None:
    expected = set(range(n_classes))
    for name, images in (("training", train), ("test", test)):
        found = set(images.targets)
        if found != expected:
            raise ValueError(
                f"The {name} labels must be 0 to {n_classes - 1}; missing {sorted(expected - found)}, "
                f"unknown {sorted(found - expected)}."
            )
