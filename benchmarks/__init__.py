"""The benchmarks as Avalanche streams, made ready for the backbone that will see them."""

from benchmarks.benchmark import Benchmark, benchmark_name, check_folder, export_split, make_benchmark
from benchmarks.datasets import BENCHMARKS
from benchmarks.images.files import Cache
from benchmarks.images.split import Split
from benchmarks.images.transforms import Augment, InputSpec, eval_transform, train_transform
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
