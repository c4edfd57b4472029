"""What takes more forward passes than a run should spend on its figures: measured only with ``--figures all``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.geometry import Geometry
from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.training.features import feature_batches

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)


@contextmanager
def solution(backbone: nn.Module, sizes: Tensor) -> Iterator[None]:
    """Gives an adapted backbone other weights for a while: those with directions of other sizes.

    Args:
        backbone: The backbone.
        sizes: ``(projections, t)`` as :class:`Geometry` has them.
    """
    geometry = Geometry.of(backbone)
    pairs = [(a, i) for a in adapters_of(backbone).values() for i in range(len(a.columns))]
    kept = []
    try:
        for (adapter, i), own, norms in zip(pairs, sizes, geometry.norms):
            projection = projections_of(adapter)[i]
            kept.append((projection, projection.offset))
            wanted = own.to(norms) / torch.where(norms > 0, norms, 1.0)
            now = projection.coefficients(adapter.magnitudes.values()[:, adapter.columns[i]].detach())
            target = wanted.to(now)[projection.owner]
            projection.replace("offset", projection.offset + target - now)
        yield
    finally:
        for projection, offset in kept:
            projection.replace("offset", offset)


@torch.no_grad()
def path(strategy: Any, first: Tensor, stream: Sequence[Any], workers: int) -> dict[str, Any]:
    """Accuracy on two tasks along the straight line from an earlier solution to the present one.

    Args:
        strategy: After training on the second of the two tasks.
        first: ``sizes (projections, t')`` of the earlier solution, whose directions are there still.
        stream: The test experiences of the two tasks.
        workers: Processes that load images.

    Returns:
        ``steps``, from 0 at the earlier solution to 1, and ``accuracy``: percent on each task at each step. The trained
        head chooses among the classes of the task.
    """
    model = strategy.model.eval()
    last = Geometry.of(model.backbone).sizes
    start = torch.zeros_like(last)
    start[:, : first.shape[1]] = first
    rows = []
    for step in STEPS:
        with solution(model.backbone, (1 - step) * start + step * last):
            rows.append([_task_accuracy(strategy, experience, workers) for experience in stream])
    return {"steps": list(STEPS), "accuracy": rows}


def _task_accuracy(strategy: Any, experience: Any, workers: int) -> float:
    model, classes = strategy.model, sorted(experience.classes_in_this_experience)
    own, hits, seen = torch.tensor(classes, device=strategy.device), 0, 0
    for x, y, _ in _batches(model.features, strategy, experience, workers):
        hits += int((own[model.head(x)[:, classes].argmax(1)] == y).sum())
        seen += len(y)
    return 100 * hits / seen


def _batches(
    features: Callable[[Tensor], Tensor], strategy: Any, experience: Any, workers: int
) -> Iterator[tuple[Tensor, Tensor, Any]]:
    return feature_batches(
        features,
        experience.dataset,
        batch_size=strategy.eval_mb_size,
        device=strategy.device,
        num_workers=workers,
    )


class HeadSources:
    """A head in closed form with statistics from other features than the model's own: frozen, stale, and an oracle's.

    The model's own head is the one that follows, or the stale one where it does not.

    Args:
        strategy: Before any training, with a model that has such a head.
        train: The training stream.
        test: The test stream.
        workers: Processes that load images.
    """

    def __init__(self, strategy: Any, train: Sequence[Any], test: Sequence[Any], workers: int) -> None:
        self._strategy, self._train, self._test, self._workers = strategy, train, test, workers
        self._classes = 1 + max(max(e.classes_in_this_experience) for e in train)
        fresh = copy.deepcopy(strategy.model.closed_form)
        fresh.frame = None
        self._fresh: ClosedFormHead = fresh
        self._stale: ClosedFormHead = copy.deepcopy(fresh)

    def frozen(self) -> list[list[float]]:
        """The accuracies on the features of the model as it is now, before any training."""
        head, rows, tests = copy.deepcopy(self._fresh), [], []
        for train, test in zip(self._train, self._test):
            self._learn(head, [train])
            tests.append(list(self._of(test)))
            rows.append([_accuracy(head, batches) for batches in tests])
        return rows

    def stale(self, done: int) -> list[float]:
        """The accuracies after so many experiences, of statistics that were gathered when each was new."""
        self._learn(self._stale, [self._train[done - 1]])
        return [_accuracy(self._stale, self._of(test)) for test in self._test[:done]]

    def oracle(self) -> list[float]:
        """The accuracies at the end, of statistics of all training images by the final model."""
        head = copy.deepcopy(self._fresh)
        self._learn(head, self._train)
        return [_accuracy(head, self._of(test)) for test in self._test]

    def _learn(self, head: ClosedFormHead, experiences: Sequence[Any]) -> None:
        batches = ((x, y) for experience in experiences for x, y in self._of(experience))
        head.learn(batches, self._classes)

    def _of(self, experience: Any) -> Iterator[tuple[Tensor, Tensor]]:
        self._strategy.model.eval()
        for x, y, _ in _batches(self._strategy.model.readings, self._strategy, experience, self._workers):
            yield x, y


def _accuracy(head: ClosedFormHead, batches: Any) -> float:
    hits, seen = 0, 0
    for x, y in batches:
        hits += int((head(x).argmax(1) == y).sum())
        seen += len(y)
    return 100 * hits / seen


class Costly:
    """Everything that ``--figures all`` adds to a run.

    Args:
        strategy: Before any training of this program.
        train: The training stream.
        test: The test stream.
        workers: Processes that load images.
        notes: What is kept with every checkpoint. After a resume the stale statistics are gone, and with them their
            curve.
    """

    def __init__(
        self, strategy: Any, train: Sequence[Any], test: Sequence[Any], workers: int, notes: dict[str, Any]
    ) -> None:
        self._strategy, self._test, self._workers = strategy, test, workers
        self._notes: dict[str, Any] = notes.setdefault("costly", {})
        self._learned = 0
        self._heads = None
        if strategy.model.closed_form is not None:
            strategy.model.to(strategy.device)
            self._heads = HeadSources(strategy, train, test, workers)
            if "frozen" not in self._notes:
                self._notes |= {"frozen": self._heads.frozen(), "stale": []}

    def after(self, done: int, solutions: Sequence[Tensor | None]) -> None:
        """Measure after so many experiences, with the solutions of them as the metric has them."""
        if done == 2 and len(solutions) == 2 and solutions[0] is not None:
            self._notes["path"] = path(self._strategy, solutions[0], self._test[:2], self._workers)
        if self._heads is not None and self._learned == done - 1:
            self._learned = done
            self._notes["stale"].append(self._heads.stale(done))

    def results(self, own: Sequence[Any]) -> dict[str, Any]:
        """What ``results.json`` has of it, beside the model's own accuracies."""
        found = {"path": self._notes["path"]} if "path" in self._notes else {}
        if self._heads is None:
            return found
        head = self._strategy.model.closed_form
        sources: dict[str, Any] = {"frozen": self._notes["frozen"]}
        if head.frame is None:
            sources["none"] = list(own)
        else:
            sources |= {"none": self._notes["stale"]} if len(self._notes["stale"]) == len(own) else {}
            sources["linear"] = list(own)
        sources["oracle"] = [*([None] * (len(own) - 1)), self._heads.oracle()]
        return {**found, "heads": {name: {"accuracy_matrix": rows} for name, rows in sources.items()}}
