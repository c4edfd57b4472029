"""Class-incremental benchmarks, made ready for the backbone that will see them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cifar100 import split_cifar100
from benchmarks.digits import split_digits
from benchmarks.folder import Cache, split_folder
from benchmarks.images import LabelledImages
from benchmarks.inputs import Augment, InputSpec, eval_transform, train_transform
from benchmarks.splits import class_order, classes_per_experience, split_by_class

BENCHMARKS: dict[str, Callable[..., Any]] = {
    "cifar100": split_cifar100,
    "digits": split_digits,
    "folder": split_folder,
}
"""Every benchmark by its kind; each takes the arguments of :func:`make_benchmark` from ``inputs`` on."""


def make_benchmark(
    name: str,
    *,
    inputs: InputSpec,
    n_experiences: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    augment: Augment | None = None,
    task_labels: bool = False,
    cache: Cache | None = None,
    cache_mb: float | None = None,
) -> Any:
    """Make a benchmark by name.

    Args:
        name: ``cifar100`` or ``digits``, in any case, or ``folder:PATH`` for a folder of one's own images.
        inputs: What the backbone expects: ``InputSpec.of(model)``.
        n_experiences: Length of the streams; by default the benchmark's own.
        seed: Gives the class order.
        root: A folder with the benchmark's files, where it needs any.
        augment: Training augmentation, ``paper``, ``flip`` or ``none``; by default the benchmark's own.
        task_labels: Make the task-incremental version.
        cache: Keep decoded images in ``memory`` or on ``disk``; for ``folder:PATH`` only, since the others hold
            their small images in memory anyway.
        cache_mb: So many MiB of them at most.

    Returns:
        An Avalanche ``CLScenario`` with ``train_stream``, ``test_stream``, ``class_names``, ``class_order``,
        ``n_classes`` and ``source``.

    Raises:
        ValueError: The name is unknown, the split impossible, ``augment`` unknown, or files are not as
            expected.
        RuntimeError: Files are missing and could not be downloaded.
    """
    kind, _, path = benchmark_name(name).partition(":")
    options: dict[str, Any] = {} if n_experiences is None else {"n_experiences": n_experiences}
    if kind == "folder":
        if path and root is not None:
            raise ValueError(f"{name!r} and root={str(root)!r} both name a folder; leave one of them out.")
        root = path or root
        options |= {"cache": cache, "cache_mb": cache_mb}
    elif cache is not None or cache_mb is not None:
        raise ValueError(f"cache={cache!r}, cache_mb={cache_mb}: {kind} decodes no files; only folder:PATH does.")
    return BENCHMARKS[kind](**options, inputs=inputs, seed=seed, root=root, augment=augment, task_labels=task_labels)


def benchmark_name(name: str) -> str:
    """The full name of a benchmark: a key of :data:`BENCHMARKS` in any case, ``folder`` with ``:PATH`` behind it.

    Raises:
        ValueError: There is none; the message gives near matches.
    """
    kind, colon, path = name.partition(":")
    if kind.lower() in BENCHMARKS and (kind.lower() == "folder" or not colon):
        return kind.lower() + colon + path
    near = difflib.get_close_matches(kind.lower(), BENCHMARKS, n=3)
    hint = f" Did you mean {' or '.join(map(_shown, near))}?" if near else ""
    raise ValueError(f"Unknown benchmark {name!r}.{hint} There are: {', '.join(map(_shown, sorted(BENCHMARKS)))}.")


def _shown(kind: str) -> str:
    return "folder:PATH" if kind == "folder" else kind


__all__ = [
    "BENCHMARKS",
    "Augment",
    "Cache",
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
    "split_folder",
    "train_transform",
]
