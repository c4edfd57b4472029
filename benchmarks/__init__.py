"""Class-incremental benchmarks, made ready for the backbone that will see them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cifar100 import split_cifar100
from benchmarks.digits import split_digits
from benchmarks.images import LabelledImages
from benchmarks.inputs import Augment, InputSpec, eval_transform, train_transform
from benchmarks.splits import class_order, classes_per_experience, split_by_class

BENCHMARKS: dict[str, Callable[..., Any]] = {"cifar100": split_cifar100, "digits": split_digits}
"""Every benchmark by its name; each takes the arguments of :func:`make_benchmark`."""


def make_benchmark(
    name: str,
    *,
    inputs: InputSpec,
    n_experiences: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    augment: Augment | None = None,
    task_labels: bool = False,
) -> Any:
    """Make a benchmark by name.

    Args:
        name: A key of :data:`BENCHMARKS`, in any case.
        inputs: What the backbone expects: ``InputSpec.of(model)``.
        n_experiences: Length of the streams; by default the benchmark's own.
        seed: Gives the class order.
        root: A folder with the benchmark's files, where it needs any.
        augment: Training augmentation, ``paper``, ``flip`` or ``none``; by default the benchmark's own.
        task_labels: Make the task-incremental version.

    Returns:
        An Avalanche ``CLScenario`` with ``train_stream``, ``test_stream``, ``class_names``, ``class_order``,
        ``n_classes`` and ``source``.

    Raises:
        ValueError: The name is unknown, the split impossible, ``augment`` unknown, or files are not as
            expected.
        RuntimeError: Files are missing and could not be downloaded.
    """
    build = BENCHMARKS[benchmark_name(name)]
    length = {} if n_experiences is None else {"n_experiences": n_experiences}
    return build(**length, inputs=inputs, seed=seed, root=root, augment=augment, task_labels=task_labels)


def benchmark_name(name: str) -> str:
    """The key of :data:`BENCHMARKS` that is ``name`` in any case.

    Raises:
        ValueError: There is none; the message gives near matches.
    """
    if name.lower() in BENCHMARKS:
        return name.lower()
    near = difflib.get_close_matches(name.lower(), BENCHMARKS, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Unknown benchmark {name!r}.{hint} There are: {', '.join(sorted(BENCHMARKS))}.")


__all__ = [
    "BENCHMARKS",
    "Augment",
    "InputSpec",
    "LabelledImages",
    "benchmark_name",
    "class_order",
    "classes_per_experience",
    "eval_transform",
    "make_benchmark",
    "split_by_class",
    "split_cifar100",
    "split_digits",
    "train_transform",
]
