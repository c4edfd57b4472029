"""The benchmarks as Avalanche streams, made ready for the backbone that will see them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cifar100 import split_cifar100
from benchmarks.cub200 import split_cub200
from benchmarks.digits import split_digits
from benchmarks.domainnet import split_domainnet, split_domainnet_domains
from benchmarks.folder import split_folder
from benchmarks.image_files import Cache
from benchmarks.imagenets import split_imagenet_a, split_imagenet_r
from benchmarks.images import LabelledImages
from benchmarks.inputs import Augment, InputSpec, eval_transform, train_transform
from benchmarks.omniglot import split_omniglot
from benchmarks.split_file import Split
from benchmarks.splits import class_order, classes_per_experience, split_by_class, split_by_domain
from benchmarks.stream import Stream

BENCHMARKS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        split_cifar100,
        split_cub200,
        split_digits,
        split_domainnet,
        split_domainnet_domains,
        split_folder,
        split_imagenet_a,
        split_imagenet_r,
        split_omniglot,
    )
}
"""Every benchmark by its kind; each takes the arguments of :func:`make_benchmark` from ``inputs`` on."""


def make_benchmark(
    name: str,
    *,
    inputs: InputSpec,
    n_experiences: int | None = None,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    augment: Augment | None = None,
    task_labels: bool = False,
    cache: Cache | None = None,
    cache_mb: float | None = None,
    validation: float | None = None,
    split: str | os.PathLike[str] | Split | None = None,
    class_order: str | os.PathLike[str] | Sequence[str] | None = None,
    strict: bool = True,
) -> Any:
    """Make a benchmark by name.

    Args:
        name: A key of :data:`BENCHMARKS`, in any case, or ``folder:PATH`` for a folder of one's own images.
        inputs: What the backbone expects: ``InputSpec.of(model)``.
        n_experiences: Length of the streams; by default the benchmark's own.
        seed: Gives the class order, or the order of the domains.
        root: A folder with the benchmark's files, where it needs any.
        augment: Training augmentation, ``paper``, ``flip`` or ``none``; by default the benchmark's own.
        task_labels: Make the task-incremental version.
        cache: Keep decoded images in ``memory`` or on ``disk``; not for ``cifar100``, ``digits`` and ``omniglot``,
            which hold their small images in memory anyway.
        cache_mb: So many MiB of them at most; by default 4096 in memory and 32768 on disk.
        validation: Choose a recipe with this: such a share of the training images of each class, between 0 and 1, is
            held out of the train stream and makes the whole test stream, whatever the seed. No test image is in either.
        split: A split, or the file of one (see :func:`export_split`), instead of the benchmark's own; for benchmarks
            of image files only. ``root`` is still where the images are.
        class_order: The class names in the order of their arrival, or a file with one on each line, instead of the
            seed's order.
        strict: Refuse a data set that has not the published number of classes and images.

    Returns:
        An Avalanche ``CLScenario`` with ``train_stream``, ``test_stream``, ``class_names``, ``class_order``,
        ``n_classes``, ``source`` (a line that says which images these are), ``digest`` (64 hexadecimal digits, equal
        for equal images in equal parts), ``split`` (None where images are not files), ``skipped`` (paths of images that
        cannot be read and are left out), ``converted`` (how many are in which colours other than RGB) and, for domains,
        ``domain_names``.

    Raises:
        ValueError: The name is unknown, the split impossible, an option unknown, or files are not as expected. Later,
            while images are loaded: a file has been removed or damaged since.
        RuntimeError: Files are missing and could not be downloaded.
    """
    stream, root = _stream(name, root)
    return stream(
        n_experiences,
        inputs=inputs,
        seed=seed,
        root=root,
        augment=augment,
        task_labels=task_labels,
        cache=cache,
        cache_mb=cache_mb,
        validation=validation,
        split=split,
        class_order=class_order,
        strict=strict,
    )


def check_folder(name: str, root: str | os.PathLike[str] | None = None) -> None:
    """Refuse at once what :func:`make_benchmark` would refuse because there is no folder of images.

    Looks at no image, and downloads none: good to call before a backbone is fetched.

    Args:
        name: As for :func:`make_benchmark`.
        root: Likewise.

    Raises:
        ValueError: The name is unknown, or ``folder:PATH`` names no folder.
        RuntimeError: The data set is not there and cannot be downloaded.
    """
    stream, root = _stream(name, root)
    if stream.locate is not None:
        stream.locate(root)


def export_split(benchmark: Any, path: str | os.PathLike[str]) -> None:
    """Write which images a benchmark holds, of which class, part and domain, to a JSON file.

    ``make_benchmark(..., split=path)`` makes streams of just these images again, from any copy of them.

    Args:
        benchmark: One of :func:`make_benchmark`, of image files.
        path: The file; what :class:`benchmarks.split_file.Split` describes.

    Raises:
        ValueError: The images of the benchmark are not files.
        OSError: The file cannot be written.
    """
    if benchmark.split is None:
        raise ValueError(f"{benchmark.source}: these are not image files; their digest is {benchmark.digest}.")
    benchmark.split.save(path)


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


def _stream(name: str, root: str | os.PathLike[str] | None) -> tuple[Stream, Path | None]:
    kind, _, path = benchmark_name(name).partition(":")
    if path and root is not None:
        raise ValueError(f"{name!r} and root={str(root)!r} both name a folder; leave one of them out.")
    found = path or root
    return BENCHMARKS[kind], None if found is None else Path(found)


def _shown(kind: str) -> str:
    return "folder:PATH" if kind == "folder" else kind


__all__ = [
    "BENCHMARKS",
    "Augment",
    "Cache",
    "InputSpec",
    "LabelledImages",
    "Split",
    "Stream",
    "benchmark_name",
    "check_folder",
    "class_order",
    "classes_per_experience",
    "eval_transform",
    "export_split",
    "make_benchmark",
    "split_by_class",
    "split_by_domain",
    "split_cifar100",
    "split_cub200",
    "split_digits",
    "split_domainnet",
    "split_domainnet_domains",
    "split_folder",
    "split_imagenet_a",
    "split_imagenet_r",
    "split_omniglot",
    "train_transform",
]
