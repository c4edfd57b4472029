"""What a head in closed form is given before an experience is trained on, and when that is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from avalanche_sdlora import processes, stream
from avalanche_sdlora.training.features import present_features


def features_before(strategy: Any, data: Any, num_workers: int) -> Iterator[Tensor]:
    """Features ``(n, d)``, in batches, of an experience's images as the model is before it."""
    return (x for x, *_ in present_features(strategy.model, strategy, data, num_workers))


def look_again(strategy: Any, data: Any, num_workers: int) -> list[Tensor]:
    """:func:`features_before` of the second task, which may take back what the first one taught the features.

    It stays if the images, of which it has seen none, are recognised clearly better than by the backbone's own features
    (:func:`avalanche_sdlora.heads.second_look.helped`).
    """
    model = strategy.model
    moved = list(present_features(model, strategy, data, num_workers))
    with model.disabled_adapters():
        plain = list(features_before(strategy, data, num_workers))
    if model.closed_form.look_again([(x, z, y) for x, (z, y, _) in zip(plain, moved)]):
        return [z for z, *_ in moved]
    model.take_back_directions()
    return plain


def learn(
    strategy: Any, data: Any, held: Tensor | None, task: stream.Task | None, may_go_back: bool, num_workers: int
) -> bool:
    """Lets the model's head in closed form learn from one pass over the images of an experience.

    Args:
        strategy: Its model has such a head.
        data: All images of the experience, ``n``.
        held: Which of them are held out from training, ``(n,)``; None: none.
        task: The task that the experience belongs to.
        may_go_back: Whether the features may be taken back to what they were before the experience.
        num_workers: Loader processes.

    Returns:
        Whether the features stay what the experience made of them.
    """
    model, found = strategy.model, set[int]()

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y, labels in present_features(model, strategy, data, num_workers):
            found.update([] if labels is None else labels.unique().tolist())
            yield x, model.head.rows_of(y, labels)

    batches = list(rows())
    tasks = set().union(*processes.gather_objects(found))
    compete = {task: classes for task, classes in model.head.classes_by_task().items() if task in tasks}
    lesson = model.closed_form.learn(
        batches,
        len(model.head.weight),
        held=held,
        competing=model.head.rows(compete) if compete else None,
        repeats=task is not None and task.repeats,
        anew=stream.brings_other_samples(data, strategy.experience),
        may_go_back=may_go_back,
    )
    model.decision = lesson._asdict()
    if task is not None:
        task.learned = True
    return lesson.kept
