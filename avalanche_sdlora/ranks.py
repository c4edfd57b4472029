"""How large a new direction is: its rank by task and by depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class RankSchedule:
    """The rank of a new direction, by the task that learns it and by the depth of the layer.

    Later tasks need less room than early ones (rank reduction: Wu et al., arXiv 2501.13198), and layers need not be
    treated alike (PRILoRA, Benedek and Wolf, arXiv 2401.11316, raises the rank with depth; SoRA, Ding et al.,
    arXiv 2311.11696, learns it).

    Args:
        tasks: Rank by the **1-based** number of the first task that has it, from task 1 on and never increasing:
            ``{1: 10, 4: 8, 8: 6}`` is rank 10 for tasks 1 to 3, 8 for tasks 4 to 7 and 6 from task 8 on.
        depth: Factors of that rank along the adapted layers, first to last, evenly spaced and linear between
            them: ``(0.5, 1.5)`` gives the first layer half the rank and the last one and a half times. Ranks are
            rounded to the nearest whole number, halves up, and are at least 1.

    Raises:
        ValueError: The schedule does not begin at task 1, increases, or has a rank below 1; or a factor is not
            a positive number.
    """

    tasks: tuple[tuple[int, int], ...] = ((1, 10), (4, 8), (8, 6))
    depth: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        given: Any = self.tasks
        try:
            pairs = given.items() if isinstance(given, Mapping) else given
            tasks = tuple((_whole(task), _whole(rank)) for task, rank in pairs)
            depth = tuple(float(factor) for factor in self.depth)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"RankSchedule(tasks={self.tasks!r}, depth={self.depth!r}): expected ranks by task number such as "
                f"{{1: 10, 4: 8}}, and factors such as (0.5, 1.5); {error}"
            ) from None
        firsts, ranks = [task for task, _ in tasks], [rank for _, rank in tasks]
        if not tasks or firsts[0] != 1 or any(a >= b for a, b in pairwise(firsts)):
            raise ValueError(f"tasks={self.tasks!r}: expected task numbers that begin at 1 and rise")
        if min(ranks) < 1 or any(a < b for a, b in pairwise(ranks)):
            raise ValueError(f"tasks={self.tasks!r}: expected ranks of at least 1 that never increase")
        if not depth or not all(0 < factor < math.inf for factor in depth):
            raise ValueError(f"depth={self.depth!r}: expected at least one factor, all above 0")
        object.__setattr__(self, "tasks", tasks)
        object.__setattr__(self, "depth", depth)

    @classmethod
    def paper(cls) -> RankSchedule:
        """The published schedule: rank 10 for tasks 1 to 3, 8 for tasks 4 to 7, 6 from task 8 on."""
        return cls()

    @classmethod
    def constant(cls, rank: int, depth: Sequence[float] = (1.0,)) -> RankSchedule:
        """One ``rank`` for every task."""
        return cls(((1, rank),), tuple(depth))

    @classmethod
    def parse(cls, text: str, depth: Sequence[float] = (1.0,)) -> RankSchedule:
        """Read a schedule like ``"10,4:8,8:6"``: ranks, each but the first with its first task; or ``"paper"``.

        Raises:
            ValueError: The text is not of this form.
        """
        if text.strip() == "paper":
            return cls(depth=tuple(depth))
        first, *later = text.split(",")
        try:
            tasks = [(1, int(first.removeprefix("1:"))), *((int(t), int(r)) for t, r in (s.split(":") for s in later))]
        except ValueError:
            raise ValueError(
                f"rank={text!r}: expected a rank such as 10; or ranks with the task from which each holds, such as "
                "10,4:8,8:6; or paper"
            ) from None
        return cls(tuple(tasks), tuple(depth))

    def rank(self, task: int, layer: int = 0, layers: int = 1) -> int:
        """The rank for the ``task``-th task, counted from 1, in adapted layer ``layer`` of ``layers``, from 0.

        Raises:
            ValueError: ``task`` is below 1.
        """
        if task < 1:
            raise ValueError(f"task={task}: tasks are counted from 1")
        base = [rank for first, rank in self.tasks if first <= task][-1]
        return _rounded(base * self._factor(layer, layers))

    def largest(self) -> int:
        """The largest rank of all: that of the first task, where the depth's factor is highest."""
        return _rounded(self.tasks[0][1] * max(self.depth))

    def _factor(self, layer: int, layers: int) -> float:
        position = (len(self.depth) - 1) * (layer / (layers - 1) if layers > 1 else 0.0)
        i = min(int(position), max(0, len(self.depth) - 2))
        left, right = self.depth[i], self.depth[min(i + 1, len(self.depth) - 1)]
        return left + (position - i) * (right - left)


def _rounded(rank: float) -> int:
    return max(1, math.floor(rank + 0.5))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or value != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)
