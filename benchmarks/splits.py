"""The class order, the split into experiences, and the Avalanche benchmark made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from avalanche.benchmarks import class_incremental_benchmark, task_incremental_benchmark
from avalanche.benchmarks.scenarios import with_classes_timeline
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torchvision.transforms import v2

from benchmarks.images import LabelledImages


def class_order(n_classes: int, seed: int) -> list[int]:
    """The order of arrival: ``RandomState(seed).permutation(n_classes)``, as in the public codes."""
    order = np.random.RandomState(seed).permutation(n_classes)
    return [int(label) for label in order]


def classes_per_experience(n_classes: int, n_experiences: int) -> list[int]:
    """How many classes each experience brings: equally many, none left over.

    Raises:
        ValueError: There are fewer than one or more than ``n_classes`` experiences, or classes would be left
            over.
    """
    if not 1 <= n_experiences <= n_classes:
        raise ValueError(f"{n_classes} classes cannot make {n_experiences} experiences; choose 1 to {n_classes}.")
    if n_classes % n_experiences:
        divisors = [n for n in range(1, n_classes + 1) if n_classes % n == 0]
        raise ValueError(
            f"{n_classes} classes in {n_experiences} experiences would leave {n_classes % n_experiences} "
            f"out; choose a divisor of {n_classes}: {', '.join(map(str, divisors))}."
        )
    return [n_classes // n_experiences] * n_experiences


def split_by_class(
    train: LabelledImages,
    test: LabelledImages,
    *,
    class_names: Sequence[str],
    source: str,
    n_experiences: int,
    seed: int = 0,
    train_transform: v2.Transform | None = None,
    eval_transform: v2.Transform | None = None,
    task_labels: bool = False,
) -> Any:
    """Make an Avalanche benchmark whose experiences bring disjoint classes.

    Args:
        train: Training images with labels ``0 .. C-1``; the labels stay as they are.
        test: Test images of the same classes.
        class_names: The ``C`` names, in the order of the labels.
        source: One line that says which images these are.
        n_experiences: Length of the streams ``train`` and ``test``; a divisor of ``C``.
        seed: Gives the class order, and nothing else.
        train_transform: For training; the group ``train`` of both streams.
        eval_transform: For evaluation; the group ``eval`` of both streams. None leaves images as they are.
        task_labels: Give experience ``i`` the task label ``i`` (task-incremental) instead of none.

    Returns:
        A ``CLScenario`` with four attributes beside its streams: ``class_names`` (tuple), ``class_order``
        (the labels in the order of their arrival), ``n_classes`` and ``source``.

    Raises:
        ValueError: The split is impossible, or a stream lacks a class or has one too many.
    """
    n_classes = len(class_names)
    sizes = classes_per_experience(n_classes, n_experiences)
    for name, images in (("training", train), ("test", test)):
        _check_labels(name, set(images.targets), n_classes)

    groups = {"train": train_transform, "eval": eval_transform}
    order = class_order(n_classes, seed)
    benchmark: Any = class_incremental_benchmark(
        {
            "train": as_classification_dataset(train, TransformGroups(groups)),
            "test": as_classification_dataset(test, TransformGroups(groups)).eval(),
        },
        class_order=order,
        num_classes_per_exp=sizes,
    )
    if task_labels:
        # Avalanche drops the timeline of the classes when it adds the task labels.
        benchmark = with_classes_timeline(task_incremental_benchmark(benchmark))

    for stream, images in ((benchmark.train_stream, train), (benchmark.test_stream, test)):
        _check_labels(f"{stream.name} stream's", _stream_labels(stream), n_classes)
        held = sum(len(experience.dataset) for experience in stream)
        if held != len(images):
            raise ValueError(f"The {stream.name} stream holds {held} of {len(images)} images.")
    benchmark.class_names = tuple(str(name) for name in class_names)
    benchmark.class_order = order
    benchmark.n_classes = n_classes
    benchmark.source = source
    return benchmark


def _stream_labels(stream: Any) -> set[int]:
    return {int(label) for experience in stream for label in experience.classes_in_this_experience}


def _check_labels(what: str, found: set[int], n_classes: int) -> None:
    expected = set(range(n_classes))
    if found != expected:
        raise ValueError(
            f"The {what} labels must be 0 to {n_classes - 1}; missing {sorted(expected - found)}, "
            f"unknown {sorted(found - expected)}."
        )
