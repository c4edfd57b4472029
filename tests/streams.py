"""A small stream of every kind that Avalanche makes."""

from avalanche.benchmarks import benchmark_from_datasets, class_incremental_benchmark, ni_benchmark
from avalanche.benchmarks.utils import as_classification_dataset

from tests.common import Points, points_stream


def class_incremental():
    """Avalanche's newer kind, whose experiences have no task labels."""
    data = {"train": as_classification_dataset(Points()), "test": as_classification_dataset(Points())}
    return class_incremental_benchmark(data, class_order=list(range(10)), num_experiences=5)


STREAMS = {
    "class-incremental": class_incremental,
    "class-incremental, task label 0": points_stream,
    "task-incremental": lambda: points_stream(task_labels=True),
    "task-incremental, labels restart": lambda: points_stream(task_labels=True, class_ids_from_zero_in_each_exp=True),
    "domain-incremental": lambda: ni_benchmark(Points(), Points(), 3, balance_experiences=True),
    "domain-incremental, task labels": lambda: ni_benchmark(Points(), Points(), 3, task_labels=True),
    "one experience": lambda: points_stream(experiences=1),
    "plain datasets": lambda: benchmark_from_datasets(
        train=[as_classification_dataset(Points(4)), as_classification_dataset(Points(6))],
        test=[as_classification_dataset(Points(4)), as_classification_dataset(Points(6))],
    ),
}
