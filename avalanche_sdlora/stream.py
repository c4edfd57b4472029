"""What an Avalanche experience says about itself, whatever kind of stream it comes from."""

from __future__ import annotations

from typing import Any


def classes_by_task(experience: Any) -> dict[int, set[int]]:
    """The class labels of ``experience`` by task label; streams without task labels count as the one task 0.

    Raises:
        ValueError: The experience is empty.
    """
    tasks = list(getattr(experience, "task_labels", [])) or [0]
    if len(tasks) == 1:
        classes = getattr(experience, "classes_in_this_experience", None) or experience.dataset.targets.uniques
        found = {int(tasks[0]): {int(c) for c in classes}}
    else:
        dataset = experience.dataset
        found = {int(task): set() for task in tasks}
        for task, label in zip(dataset.targets_task_labels, dataset.targets):
            found[int(task)].add(int(label))
    if not all(found.values()):
        raise ValueError(
            f"experience {name(experience)} has no samples"
            + (f" for some of its tasks {tasks}" if len(tasks) > 1 else "")
        )
    return found


def check_classes(experience: Any) -> None:
    """Refuses a stream whose split silently lost classes.

    Of ``C`` classes, Avalanche's ``class_incremental_benchmark(num_experiences=n)`` gives every experience ``C // n``
    and drops the rest. Streams of fewer classes than their data set has are refused only where they look like that.

    Raises:
        ValueError: It did; the message names the classes.
    """
    stream = list(getattr(experience, "origin_stream", None) or [experience])
    sources = getattr(getattr(experience.dataset, "_flat_data", None), "_datasets", [])
    available = {int(c) for source in sources for c in getattr(source, "targets", [])}
    parts = [set().union(*classes_by_task(e).values()) for e in stream]
    lost = available - set().union(*parts)
    if 0 < len(lost) < len(stream) and all(len(part) == len(available) // len(stream) for part in parts):
        raise ValueError(
            f"the stream lost the classes {sorted(lost)}: {len(available)} classes do not divide into {len(stream)} "
            "equal experiences. Give class_incremental_benchmark the sizes, as num_classes_per_exp"
        )


def labels_restart(experience: Any) -> bool:
    """Whether the same class label means another class in every experience (Avalanche's zero-based experiences)."""
    return bool(getattr(getattr(experience, "benchmark", None), "class_ids_from_zero_in_each_exp", False))


def name(experience: Any) -> str:
    """A name for messages: the position in the stream, and the stream."""
    stream = getattr(getattr(experience, "origin_stream", None), "name", None)
    position = getattr(experience, "current_experience", None)
    return f"{position if position is not None else '?'} of stream {stream!r}" if stream else f"{position}"
