"""Reads an Avalanche experience of any kind of stream: its classes, task labels, and the task it belongs to."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

#: Logits are laid out by class label, so that a label of any size would take any amount of memory.
MAX_CLASSES = 1 << 20


def classes_by_task(experience: Any, dataset: Any = None) -> dict[int, set[int]]:
    """The class labels of an experience by task label; data without task labels count as the one task 0.

    Args:
        experience: The experience.
        dataset: The data that a strategy trains on, where they are not those of the experience (``JointTraining``,
            ``Cumulative``, GDumb). None: the experience's data.

    Raises:
        ValueError: There are no samples, no ``targets`` to read, or labels that no head can have a column for.
    """
    dataset = experience.dataset if dataset is None else dataset
    targets = getattr(dataset, "targets", None)
    if targets is None:
        raise ValueError(
            f"experience {name(experience)}: its data set has no targets; make it with "
            "avalanche.benchmarks.utils.as_classification_dataset"
        )
    try:
        unique = {int(label) for label in targets.uniques}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"experience {name(experience)}: its targets are no class labels ({error}); expected one whole number for "
            "each sample, as its data set's targets"
        ) from error
    tasks = getattr(dataset, "targets_task_labels", None)
    labels = {0} if tasks is None else {int(task) for task in tasks.uniques}
    if len(labels) == 1:
        found = {labels.pop(): unique}
    else:
        found = {task: set() for task in labels}
        for task, label in zip(tasks, targets):  # type: ignore[arg-type]
            found[int(task)].add(int(label))
    if not found or not all(found.values()):
        raise ValueError(f"experience {name(experience)} has no samples")
    smallest, largest = (edge(edge(labels) for labels in found.values()) for edge in (min, max))
    if smallest < 0 or largest >= MAX_CLASSES:
        raise ValueError(
            f"experience {name(experience)}: its class labels reach from {smallest} to {largest}; expected whole "
            f"numbers from 0 to {MAX_CLASSES - 1}, since logits have a column for each up to the largest. Number the "
            "classes from 0 on, with the target_transform of the data set for instance"
        )
    return found


def check_classes(experience: Any) -> None:
    """Refuses a stream whose split silently lost classes.

    Of ``C`` classes, Avalanche's ``class_incremental_benchmark(num_experiences=n)`` gives every experience ``C // n``
    and drops the rest. A stream with fewer classes than its data set is refused only where it looks like such a split.

    Raises:
        ValueError: The stream lost classes; the message names them.
    """
    stream = list(getattr(experience, "origin_stream", None) or [experience])
    sources = getattr(getattr(experience.dataset, "_flat_data", None), "_datasets", [])
    available = {int(c) for source in sources for c in getattr(source, "targets", [])}
    parts = [set().union(*classes_by_task(e).values()) for e in stream]
    lost = available - set().union(*parts)
    if 0 < len(lost) < len(stream) and all(len(part) == len(available) // len(stream) for part in parts):
        raise ValueError(
            f"the stream lost the classes {sorted(lost)}: {len(available)} classes do not divide into {len(stream)} "
            "equal experiences. Give class_incremental_benchmark the sizes, as num_classes_per_exp; or, if these "
            "classes are left out on purpose, say check_stream=False to SDLoRAStrategy or SDLoRAPlugin"
        )


def labels_restart(experience: Any, classes: Mapping[int, set[int]], seen: Mapping[int, set[int]]) -> bool:
    """Whether a class label of ``experience`` means another class than under the task labels seen before.

    Avalanche's older benchmarks say so themselves: those of new classes by ``class_ids_from_zero_in_each_exp``, and
    those of new instances never let labels restart. Any other stream is judged by its labels. Avalanche's models
    have a head of its own for each task label, so that a class label which comes under two of them is two classes.

    Args:
        experience: The present experience.
        classes: Its class labels by task label.
        seen: The class labels of all experiences before it by task label.
    """
    benchmark = getattr(experience, "benchmark", None)
    if benchmark is None:
        benchmark = getattr(getattr(experience, "origin_stream", None), "benchmark", None)
    said = getattr(benchmark, "class_ids_from_zero_in_each_exp", None)
    if said is not None:
        return bool(said)
    if "new_instances" in type(benchmark).__module__:
        return False
    pairs = [(task, labels) for part in (seen, classes) for task, labels in part.items()]
    return any(a != b and own & other for a, own in pairs for b, other in pairs)


def name(experience: Any) -> str:
    """The name of an experience in messages: its position in the stream, counted from 1, and the stream."""
    stream = getattr(getattr(experience, "origin_stream", None), "name", None)
    position = getattr(experience, "current_experience", None)
    number = "?" if position is None else position + 1
    return f"{number} of stream {stream!r}" if stream else f"{number}"


def brings_other_samples(dataset: Any, experience: Any) -> bool:
    """Whether the training data ``dataset`` hold samples that the experience does not have.

    ``JointTraining``, ``Cumulative`` and GDumb train on data of their own making. They are known by a class of which
    they hold more samples than the experience does.
    """
    return bool(Counter(map(int, dataset.targets)) - Counter(map(int, experience.dataset.targets)))


def is_part(experience: Any) -> bool:
    """Whether an online stream has cut the experience out of a larger one."""
    return hasattr(experience, "sub_stream_length")


def parts(experience: Any) -> int:
    """Into how many experiences an online stream has cut the task of this one; 1 for any other stream."""
    return getattr(experience, "sub_stream_length", None) or 1


class Task:
    """The task that is being learned; it decides whether the next experience goes on with it.

    An experience goes on with the task where it is the one just trained on; where both are parts of one experience that
    an online stream has cut up; and, in an online stream that hides where the parts are from
    (``access_task_boundaries=False``), where both share a class. Any other begins a new task: it brings new classes, or
    a new domain.

    Args:
        experience: The present experience.
        classes: Its class labels by task label.
        before: The task at the experience before it, if there was one.
        goes_on: Whether the experience goes on with the task of ``before``.

    Attributes:
        classes: All class labels of the task so far, by task label.
        repeats: Whether the present experience holds the samples of the one before it, and these have been learned.
        learned: Whether a head in closed form counts the samples of the present experience.
    """

    def __init__(
        self, experience: Any, classes: Mapping[int, set[int]], before: Task | None = None, goes_on: bool = False
    ) -> None:
        self.classes = {task: set(labels) for task, labels in classes.items()}
        if before is not None and goes_on:
            for task, labels in before.classes.items():
                self.classes.setdefault(task, set()).update(labels)
        self.repeats: bool = before is not None and before.learned and before.is_at(experience)
        self.learned: bool = self.repeats
        whole = _whole(experience)
        self._part: str = key(experience)
        self._whole: str | None = None if whole is None else key(whole)
        # An index and labels may be equal in two benchmarks; within a process the data themselves must be one object.
        self._part_data: Any = weakref.ref(experience.dataset)
        self._whole_data: Any = None if whole is None else weakref.ref(whole.dataset)

    @property
    def name(self) -> str:
        """A name of the present experience for messages."""
        return self._part.rpartition(" ")[0]

    def is_at(self, experience: Any) -> bool:
        """Whether ``experience`` is the present one."""
        return self._part == key(experience) and _is_of(self._part_data, experience)

    def goes_on_with(self, experience: Any) -> bool:
        """Whether ``experience`` belongs to this task."""
        whole = _whole(experience)
        if whole is None:
            classes = classes_by_task(experience)
            return any(self.classes.get(task, set()) & labels for task, labels in classes.items())
        return self._whole == key(whole) and _is_of(self._whole_data, whole)

    def state(self) -> dict[str, Any]:
        """The state for :meth:`from_state`, as values of JSON."""
        classes = {str(task): sorted(labels) for task, labels in self.classes.items()}
        flags = {"repeats": self.repeats, "learned": self.learned}
        return {"classes": classes, **flags, "part": self._part, "whole": self._whole}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Task:
        """The task that another process had when it was interrupted in this stream."""
        task = cls.__new__(cls)
        task.classes = {int(label): set(classes) for label, classes in state["classes"].items()}
        task.repeats, task.learned, task._part, task._whole = (
            state[name] for name in ("repeats", "learned", "part", "whole")
        )
        task._part_data = task._whole_data = None
        return task


def _whole(experience: Any) -> Any:
    """The experience that an online stream cut up, if it says so; None where it hides it; else the experience."""
    if not is_part(experience):
        return experience
    return experience.origin_experience if experience.access_task_boundaries else None


def key(experience: Any) -> str:
    """A text that is equal in another process for an equal experience: its name, and a checksum of its labels."""
    targets = json.dumps([int(label) for label in experience.dataset.targets])
    return f"{name(experience)} {hashlib.sha256(targets.encode()).hexdigest()}"


def _is_of(data: Any, experience: Any) -> bool:
    return data is None or data() is experience.dataset
