"""The class order, the split into experiences, and the Avalanche benchmark made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from avalanche.benchmarks import benchmark_from_datasets, class_incremental_benchmark, task_incremental_benchmark
from avalanche.benchmarks.scenarios import with_classes_timeline
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torchvision.transforms import v2


def class_order(n_classes: int, seed: int) -> list[int]:
    """The order of arrival: ``RandomState(seed).permutation(n_classes)``, as in the public codes."""
    order = np.random.RandomState(seed).permutation(n_classes)
    return [int(label) for label in order]


def classes_per_experience(n_classes: int, n_experiences: int, *, uneven: bool = False) -> list[int]:
    """How many classes each experience brings: equally many, none left over.

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
    class_names: Sequence[str],
    source: str,
    n_experiences: int,
    seed: int = 0,
    order: Sequence[int] | None = None,
    uneven: bool = False,
    train_transform: v2.Transform | None = None,
    eval_transform: v2.Transform | None = None,
    task_labels: bool = False,
) -> Any:
    """Make an Avalanche benchmark whose experiences bring disjoint classes.

    Args:
        train: Training images, a data set with labels ``0 .. C-1`` in ``targets``; the labels stay as they are.
        test: Test images of the same classes.
        class_names: The ``C`` names, in the order of the labels.
        source: One line that says which images these are.
        n_experiences: Length of the streams ``train`` and ``test``; a divisor of ``C``.
        seed: Gives the class order, and nothing else.
        order: The labels in the order of their arrival; instead of the seed's.
        uneven: As for :func:`classes_per_experience`; any length is possible then.
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
    sizes = classes_per_experience(n_classes, n_experiences, uneven=uneven)
    order = class_order(n_classes, seed) if order is None else list(order)
    _check_parts(train, test, n_classes)
    benchmark: Any = class_incremental_benchmark(
        _datasets(train, test, train_transform, eval_transform), class_order=order, num_classes_per_exp=sizes
    )
    return _finished(benchmark, train, test, class_names, source, order, task_labels)


def split_by_domain(
    train: Any,
    test: Any,
    *,
    train_domains: Sequence[str],
    test_domains: Sequence[str],
    class_names: Sequence[str],
    source: str,
    seed: int = 0,
    train_transform: v2.Transform | None = None,
    eval_transform: v2.Transform | None = None,
    task_labels: bool = False,
) -> Any:
    """Make an Avalanche benchmark whose experiences bring one domain each, with all the classes that it has.

    Args:
        train: As for :func:`split_by_class`.
        test: Likewise.
        train_domains: The domain of each training image.
        test_domains: The domain of each test image.
        class_names: As for :func:`split_by_class`.
        source: Likewise.
        seed: Gives the order of the domains: that of :func:`class_order` over their sorted names.
        train_transform: As for :func:`split_by_class`.
        eval_transform: Likewise.
        task_labels: Likewise.

    Returns:
        As :func:`split_by_class`, with the labels in ascending order as ``class_order``, and ``domain_names`` (tuple,
        in the order of their arrival).

    Raises:
        ValueError: A part lacks a class or a domain, or has one too many.
    """
    names = sorted(set(train_domains))
    if names != sorted(set(test_domains)):
        raise ValueError(f"Training images are of the domains {names}, test images of {sorted(set(test_domains))}.")
    _check_parts(train, test, len(class_names))
    arriving = [names[i] for i in class_order(len(names), seed)]
    streams = {}
    for part, data in _datasets(train, test, train_transform, eval_transform).items():
        places: dict[str, list[int]] = {name: [] for name in names}
        for i, domain in enumerate(train_domains if part == "train" else test_domains):
            places[domain].append(i)
        streams[part] = [data.subset(places[name]) for name in arriving]
    benchmark = with_classes_timeline(benchmark_from_datasets(**streams))
    order = list(range(len(class_names)))
    benchmark = _finished(benchmark, train, test, class_names, source, order, task_labels)
    benchmark.domain_names = tuple(arriving)
    return benchmark


def _datasets(train: Any, test: Any, train_transform: Any, eval_transform: Any) -> dict[str, Any]:
    groups = {"train": train_transform, "eval": eval_transform}
    return {
        "train": as_classification_dataset(train, TransformGroups(groups)),
        "test": as_classification_dataset(test, TransformGroups(groups)).eval(),
    }


def _finished(
    benchmark: Any,
    train: Any,
    test: Any,
    class_names: Sequence[str],
    source: str,
    order: list[int],
    task_labels: bool,
) -> Any:
    if task_labels:
        # Avalanche drops the timeline of the classes when it adds the task labels.
        benchmark = with_classes_timeline(task_incremental_benchmark(benchmark))
    for stream, images in ((benchmark.train_stream, train), (benchmark.test_stream, test)):
        _check_labels(f"{stream.name} stream's", _stream_labels(stream), len(class_names))
        held = sum(len(experience.dataset) for experience in stream)
        if held != len(images):
            raise ValueError(f"The {stream.name} stream holds {held} of {len(images)} images.")
    benchmark.class_names = tuple(str(name) for name in class_names)
    benchmark.class_order = order
    benchmark.n_classes = len(class_names)
    benchmark.source = source
    return benchmark


def _stream_labels(stream: Any) -> set[int]:
    return {int(label) for experience in stream for label in experience.classes_in_this_experience}


def _check_parts(train: Any, test: Any, n_classes: int) -> None:
    for name, images in (("training", train), ("test", test)):
        _check_labels(name, set(images.targets), n_classes)


def _check_labels(what: str, found: set[int], n_classes: int) -> None:
    expected = set(range(n_classes))
    if found != expected:
        raise ValueError(
            f"The {what} labels must be 0 to {n_classes - 1}; missing {sorted(expected - found)}, "
            f"unknown {sorted(found - expected)}."
        )
