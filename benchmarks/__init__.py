"""The benchmarks as Avalanche streams, made ready for the backbone that will see them.

The names of this package are imported when they are first used, see :mod:`avalanche_sdlora`.
"""

from typing import TYPE_CHECKING, Any

from avalanche_sdlora.lazy import imported
from benchmarks.datasets import BENCHMARKS, benchmark_name
from benchmarks.images.choices import Augment, Cache

if TYPE_CHECKING:
    from benchmarks.benchmark import Benchmark, check_folder, export_split, make_benchmark
    from benchmarks.images.split import Split
    from benchmarks.images.transforms import InputSpec, eval_transform, train_transform
    from benchmarks.streams import arrival_order, classes_per_experience, split_by_class, split_by_domain

__all__ = [
    "BENCHMARKS",
    "Augment",
    "Benchmark",
    "Cache",
    "InputSpec",
    "Split",
    "arrival_order",
    "benchmark_name",
    "check_folder",
    "classes_per_experience",
    "eval_transform",
    "export_split",
    "make_benchmark",
    "split_by_class",
    "split_by_domain",
    "train_transform",
]

#: The modules of the names that are not imported above.
_HOMES = {
    "benchmark": ("Benchmark", "check_folder", "export_split", "make_benchmark"),
    "images.split": ("Split",),
    "images.transforms": ("InputSpec", "eval_transform", "train_transform"),
    "streams": ("arrival_order", "classes_per_experience", "split_by_class", "split_by_domain"),
}


def __getattr__(name: str) -> Any:
    return imported(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
