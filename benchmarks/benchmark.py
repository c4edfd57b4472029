"""A benchmark by its name: Avalanche's streams, made ready for the backbone that will see them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from avalanche.benchmarks import CLScenario

from benchmarks.datasets import BENCHMARKS, benchmark_name
from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.choices import Augment, Cache, check_augment, check_cache
from benchmarks.images.split import Part, Split, some
from benchmarks.images.transforms import InputSpec
from benchmarks.images.validation import check_fraction
from benchmarks.streams import arrival_order, classes_per_experience, split_by_class, split_by_domain


class Benchmark(CLScenario):
    """An Avalanche scenario, with ``train_stream`` and ``test_stream``, that says which images it holds.

    Attributes:
        class_names: The names in the order of the labels.
        class_order: The labels in the order of their arrival; for domains, in ascending order.
        domain_names: The domains in the order of their arrival, or None where classes arrive.
        source: One line that says which images these are, and where.
        caption: One line that says which images these are, without the folder that they are in: for titles.
        digest: 64 hexadecimal digits, equal for equal images in equal parts.
        split: Which file is of which class and part, or None where images are not files.
        skipped: Paths of images that cannot be read and are left out.
        converted: How many images are in colours other than RGB, by PIL's name of their mode.
    """

    def __init__(
        self,
        scenario: CLScenario,
        *,
        class_names: Sequence[str],
        class_order: Sequence[int],
        domain_names: Sequence[str] | None,
        source: str,
        caption: str,
        digest: str,
        split: Split | None,
        skipped: Sequence[str],
        converted: Mapping[str, int],
    ) -> None:
        super().__init__(list(scenario.streams.values()))
        self.class_names = tuple(class_names)
        self.class_order = list(class_order)
        self.domain_names = None if domain_names is None else tuple(domain_names)
        self.source = source
        self.caption = caption
        self.digest = digest
        self.split = split
        self.skipped = list(skipped)
        self.converted = dict(converted)

    @property
    def n_classes(self) -> int:
        """The number of classes of the whole stream."""
        return len(self.class_names)


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
) -> Benchmark:
    """Make a benchmark by name.

    Args:
        name: A key of ``BENCHMARKS``, in any case, or ``folder:PATH`` for a folder of one's own images.
        inputs: The input that the backbone expects: ``InputSpec.of(model)``.
        n_experiences: Length of the streams; by default the benchmark's own.
        seed: Gives the class order, or the order of the domains.
        root: A folder with the benchmark's files, where it needs any.
        augment: Training augmentation, ``paper``, ``flip`` or ``none``; by default the benchmark's own.
        task_labels: Make the task-incremental version.
        cache: ``disk``: keep decoded images in the user's cache folder; not for ``cifar100``, ``digits`` and
            ``omniglot``, which hold their small images in memory anyway.
        cache_mb: The size of the cache in MiB at most; by default 32768.
        validation: Choose a recipe with this: such a share of the training images of each class, between 0 and 1, is
            held out of the train stream and makes the whole test stream, whatever the seed. No test image is in either.
        split: A split, or the file of one (see :func:`export_split`), instead of the benchmark's own; for
            benchmarks of image files only. ``root`` is still where the images are.
        class_order: The class names in the order of their arrival, or a file with one on each line, instead of the
            seed's order. A file that ends in ``.npy`` holds the labels, which are places in the names of the data
            set, as an array ``(classes,)`` of whole numbers: the orders of LAMDA-PILOT, ``numpy.random.seed(1993)``
            and then ``numpy.random.permutation(classes)``, and of LibContinual are such arrays.
        strict: Refuse a data set that has not the published number of classes and images.

    Raises:
        ValueError: The name is unknown, the split impossible, an option unknown, or files are not as expected. Later,
            while images are loaded: a file has been removed or damaged since.
        RuntimeError: Files are missing and could not be downloaded.
    """
    spec, folder = _found(name, root)
    augment = spec.augment if augment is None else augment
    check_augment(augment)
    check_cache(cache, cache_mb)
    check_fraction(validation)
    _check_kind(spec, n_experiences, cache, cache_mb, split, class_order)
    given = split if split is None or isinstance(split, Split) else Split.load(split)
    images = spec.find(folder, split=given, strict=strict)
    length = spec.n_experiences if n_experiences is None else n_experiences
    if spec.by_domain:  # an argument that cannot be used is refused before every image is looked at
        _domains(images.split, "train"), _domains(images.split, "test")
        arrival = list(range(len(images.class_names)))
    else:
        classes_per_experience(len(images.class_names), length, uneven=spec.uneven)
        arrival = _arrival(images.class_order if class_order is None else class_order, images.class_names, seed)
    images = images.readable()
    if validation is not None:
        images = images.hold_out(validation)
    prepared = images.prepare(inputs, augment, cache=cache, cache_mb=cache_mb)
    common: dict[str, Any] = {
        "train_transform": prepared.train_transform,
        "eval_transform": prepared.eval_transform,
        "task_labels": task_labels,
    }
    domain_names = None
    if spec.by_domain:
        train_domains = _domains(images.split, "train")
        names = sorted(set(train_domains))
        domain_names = [names[i] for i in arrival_order(len(names), seed)]
        scenario = split_by_domain(
            prepared.train,
            prepared.test,
            train_domains=train_domains,
            test_domains=_domains(images.split, "test"),
            order=domain_names,
            n_classes=len(arrival),
            **common,
        )
    else:
        scenario = split_by_class(
            prepared.train, prepared.test, order=arrival, n_experiences=length, uneven=spec.uneven, **common
        )
    return Benchmark(
        scenario,
        class_names=images.class_names,
        class_order=arrival,
        domain_names=domain_names,
        source=images.source + prepared.note,
        caption=images.caption,
        digest=images.digest,
        split=images.split,
        skipped=images.skipped,
        converted=images.converted,
    )


def check_folder(name: str, root: str | os.PathLike[str] | None = None) -> None:
    """Refuse at once a benchmark that :func:`make_benchmark` would refuse because there is no folder of images.

    Looks at no image, and downloads none: good to call before a backbone is fetched.

    Args:
        name: As for :func:`make_benchmark`.
        root: As for :func:`make_benchmark`.

    Raises:
        ValueError: The name is unknown, or ``folder:PATH`` names no folder.
        RuntimeError: The data set is not there and cannot be downloaded.
    """
    spec, folder = _found(name, root)
    if spec.locate is not None:
        spec.locate(folder)


def export_split(benchmark: Benchmark, path: str | os.PathLike[str]) -> None:
    """Write which images a benchmark holds, of which class, part and domain, to a JSON file.

    ``make_benchmark(..., split=path)`` makes streams of just these images again, from any copy of them.

    Args:
        benchmark: One of :func:`make_benchmark`, of image files.
        path: The file; :class:`benchmarks.Split` describes its content.

    Raises:
        ValueError: The images of the benchmark are not files.
        OSError: The file cannot be written.
    """
    if benchmark.split is None:
        raise ValueError(f"{benchmark.source}: these are not image files; their digest is {benchmark.digest}.")
    benchmark.split.save(path)


def _found(name: str, root: str | os.PathLike[str] | None) -> tuple[BenchmarkSpec, Path | None]:
    kind, _, path = benchmark_name(name).partition(":")
    if path and root is not None:
        raise ValueError(f"{name!r} and root={str(root)!r} both name a folder; leave one of them out.")
    folder = path or root
    return BENCHMARKS[kind], None if folder is None else Path(folder)


def _check_kind(
    spec: BenchmarkSpec, n_experiences: Any, cache: Any, cache_mb: Any, split: Any, class_order: Any
) -> None:
    """Refuse options that a benchmark of this kind cannot have."""
    if not spec.files:
        if cache is not None or cache_mb is not None:
            raise ValueError(f"cache={cache!r}, cache_mb={cache_mb}: {spec.name} decodes no files.")
        if split is not None:
            raise ValueError(f"split={split!r}: the images of {spec.name} are no files that a split could name.")
    if spec.by_domain and n_experiences not in (None, spec.n_experiences):
        raise ValueError(
            f"{spec.name} has an experience for each of {spec.n_experiences} domains; got {n_experiences}."
        )
    if spec.by_domain and class_order is not None:
        raise ValueError(f"class_order={class_order!r}: {spec.name} brings domains one after another, not classes.")


def _domains(split: Split | None, part: Part) -> list[str]:
    """The domain of each image of a part."""
    images = [] if split is None else split.part(part)
    domains = [image.domain for image in images if image.domain is not None]
    if not images or len(domains) != len(images):
        raise ValueError("A stream of domains needs the domain of every image; the split lacks some.")
    return domains


def _arrival(given: str | os.PathLike[str] | Sequence[str] | None, class_names: Sequence[str], seed: int) -> list[int]:
    """The labels in the order of their arrival: by names that are given or written in a file, or by the seed."""
    if given is None:
        return arrival_order(len(class_names), seed)
    where = "class_order"
    if isinstance(given, str | os.PathLike):
        where = f"class_order={os.fspath(given)!r}"
        if Path(given).suffix == ".npy":
            return _array_of_labels(Path(given), len(class_names), where)
        try:
            lines = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} cannot be read: {error}.") from error
        given = [line.strip() for line in lines if line.strip()]
    if sorted(given) != sorted(class_names):
        wrong = {"missing": set(class_names) - set(given), "unknown": set(given) - set(class_names)}
        what = "; ".join(f"{kind}: {some(names)}" for kind, names in wrong.items() if names) or "some come twice"
        raise ValueError(f"{where} must name each of the {len(class_names)} classes once; {what}.")
    labels = {name: label for label, name in enumerate(class_names)}
    return [labels[name] for name in given]


def _array_of_labels(path: Path, n: int, where: str) -> list[int]:
    """The labels of a file of NumPy, each of ``n`` once."""
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{where} cannot be read: {error}.") from error
    if labels.dtype.kind not in "iu" or sorted(labels.flatten().tolist()) != list(range(n)) or labels.ndim != 1:
        raise ValueError(f"{where} must hold each label from 0 to {n - 1} once, as whole numbers in one dimension.")
    return [int(label) for label in labels]
