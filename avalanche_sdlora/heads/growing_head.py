"""The linear classifier that grows with the classes seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.growing import GrowingModule

# The logit of a class that does not compete: finite, so that losses, distillation and logs stay finite. It is the
# value that Avalanche's IncrementalClassifier uses.
MASKED = -1000.0


class GrowingHead(GrowingModule):
    """One linear row per class seen; logits are laid out by class label.

    ``row_of[i, c]`` is the row that scores class ``c`` under the task label ``task_labels[i]``, or -1 if that task
    does not have the class. Streams without task labels use the single label 0. Weights are float32.

    Args:
        in_features: Size ``d`` of the features.
        multi_head: Whether one class label under two task labels means two classes, as in streams whose class
            labels restart at 0 in every experience. Otherwise the tasks share the row.
    """

    GROWING: ClassVar = {
        "weight": (0,),
        "bias": (0,),
        "row_of": (0, 1),
        "task_labels": (0,),
        "born": (0, 1),
        "checksums": (0,),
    }

    row_of: Tensor
    task_labels: Tensor
    born: Tensor
    checksums: Tensor

    def __init__(self, in_features: int, multi_head: bool = False) -> None:
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(0, in_features))  # (rows, d)
        self.bias = nn.Parameter(torch.empty(0))  # (rows,)
        self.register_buffer("row_of", torch.empty(0, 0, dtype=torch.long))  # (tasks, classes)
        self.register_buffer("task_labels", torch.empty(0, dtype=torch.long))  # (tasks,)
        # For the head as it was: the number of the task that brought each entry of row_of, and a checksum of all rows
        # at the end of each task.
        self.register_buffer("born", torch.empty(0, 0, dtype=torch.long))  # (tasks, classes)
        self.register_buffer("checksums", torch.empty(0, dtype=torch.long))  # (tasks learned,)
        self.multi_head = multi_head
        self._min_width = 0

    def get_extra_state(self) -> Tensor:
        """``multi_head``: a plain attribute otherwise, so that reading it never waits for a device."""
        return torch.tensor(self.multi_head)

    def set_extra_state(self, state: Tensor) -> None:
        """Set ``multi_head`` from a state dict."""
        self.multi_head = bool(state)

    @torch.no_grad()
    def grow(self, classes: Mapping[int, Iterable[int]], number: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Adds a row for each class not seen before; rows there already are copied exactly.

        New weights are Kaiming-uniform with linear gain, new biases 0.

        Args:
            classes: Class labels by task label.
            number: Of the task that brings them, from 1.

        Returns:
            ``(old, new)`` for each parameter that was replaced; empty when nothing is new.
        """
        tasks, table = self.task_labels.tolist(), self.row_of.cpu()
        width = max([table.shape[1], *(c + 1 for labels in classes.values() for c in labels)])
        table = F.pad(table, (0, width - table.shape[1]), value=-1)
        rows = len(self.weight)
        for task in sorted(classes):
            if task not in tasks:
                tasks.append(task)
                table = F.pad(table, (0, 0, 0, 1), value=-1)
            own = table[tasks.index(task)]
            for c in sorted(classes[task]):
                if own[c] < 0 and not self.multi_head:
                    own[c] = table[:, c].max()  # another task's row, if any has the class
                if own[c] < 0:
                    own[c], rows = rows, rows + 1
        born = F.pad(self.born.cpu(), (0, width - self.born.shape[1], 0, len(table) - len(self.born)))
        self.replace("born", torch.where((table >= 0) & (born == 0), number, born))
        self.replace("row_of", table)
        self.replace("task_labels", torch.tensor(tasks, dtype=torch.long))
        new = rows - len(self.weight)
        if not new:
            return []
        weight = torch.empty(new, self.in_features)  # drawn on the CPU: a seed gives equal numbers on every device
        nn.init.kaiming_uniform_(weight, nonlinearity="linear")
        return [
            self.replace("weight", torch.cat([self.weight, weight.to(self.weight)])),
            self.replace("bias", torch.cat([self.bias, self.bias.new_zeros(new)])),
        ]

    def classes(self) -> list[int]:
        """The class labels seen so far, in ascending order."""
        return (self.row_of >= 0).any(0).nonzero().flatten().tolist()

    def classes_by_task(self) -> dict[int, set[int]]:
        """The class labels seen so far by task label."""
        pairs = zip(self.task_labels.tolist(), self.row_of.cpu())
        return {task: set((rows >= 0).nonzero().flatten().tolist()) for task, rows in pairs}

    def rows(self, classes: Mapping[int, Iterable[int]]) -> Tensor:
        """The rows of classes that have been seen, in ascending order, from class labels by task label."""
        tasks = self.task_labels.tolist()
        found = [self.row_of[tasks.index(task), sorted(labels)] for task, labels in classes.items()]
        return torch.cat(found).unique()

    # -- the head as it was ------------------------------------------------------------------------------------------

    def record(self, number: int) -> None:
        """Remembers the rows as they are at the end of task ``number``, by a checksum."""
        kept = F.pad(self.checksums[: number - 1], (0, max(0, number - 1 - len(self.checksums))))
        self.replace("checksums", torch.cat([kept, kept.new_tensor([self._checksum(len(self.weight))])]))

    def unmoved_since(self, number: int) -> bool:
        """Whether the rows that task ``number`` left behind are as they were at its end."""
        return int(self.checksums[number - 1]) == self._checksum(self._rows_at(number))

    @torch.no_grad()
    def forget_after(self, number: int) -> None:
        """Takes the classes away that came after task ``number``."""
        rows, later = self._rows_at(number), self.born > number
        table = self.row_of.masked_fill(later, -1)
        tasks, classes = (table >= 0).any(1).sum(), 1 + (table >= 0).any(0).nonzero().amax()
        self.replace("row_of", table[:tasks, :classes])
        self.replace("born", self.born.masked_fill(later, 0)[:tasks, :classes])
        self.replace("task_labels", self.task_labels[:tasks])
        self.replace("weight", self.weight[:rows])
        self.replace("bias", self.bias[:rows])
        self.replace("checksums", self.checksums[:number])
        self._min_width = 0

    def _rows_at(self, number: int) -> int:
        return 1 + int(self.row_of.masked_fill(self.born > number, -1).max())

    def _checksum(self, rows: int) -> int:
        """Of the first ``rows`` rows, rounded to bfloat16: a file in that type, or a wider one, leaves it as it is."""
        values = torch.cat([self.weight[:rows].detach(), self.bias[:rows, None].detach()], dim=1)
        content = values.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        return int.from_bytes(hashlib.sha256(content).digest()[:7], "little")

    def reserve(self, width: int) -> None:
        """Makes logits in evaluation at least ``width`` wide from now on, so that unseen targets are valid indices.

        In training the width is that of the classes seen: sums over more columns would round differently.
        """
        self._min_width = max(self._min_width, width)

    def forward(self, features: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Logits ``(n, classes)`` by class label; classes that do not compete have the logit -1000.

        Args:
            features: ``(n, d)``.
            task_labels: ``(n,)``. Each selects the classes seen with it; a label never seen, or None, all classes.

        Raises:
            ValueError: There are no task labels, though one class label means several classes.
        """
        scores = F.linear(features, self.weight, self.bias) if len(self.weight) else features[:, :0]
        return self.lay_out(scores, self.row_table(task_labels))

    def lay_out(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Logits ``(n, classes)`` by class label, as :meth:`forward`, from the scores ``(n, rows)`` of some classifier.

        Where a score is below -1000, classes that do not compete get the smallest score less one.

        Args:
            scores: Of every row of the head.
            rows: Of every class, ``(n or 1, classes)``, as :meth:`row_table` gives them.
        """
        if not scores.shape[1]:
            return scores.new_full((len(scores), rows.shape[1]), MASKED)
        logits = scores.gather(1, rows.clamp(min=0).expand(len(scores), -1))  # (n, classes)
        lowest = (scores.detach().amin(1, keepdim=True) - 1).clamp(max=MASKED)
        return torch.where(rows < 0, lowest, logits)

    def rows_of(self, targets: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """The row ``(n,)`` of each sample's class, from class and task labels ``(n,)`` that have been seen."""
        return self.row_table(task_labels).expand(len(targets), -1).gather(1, targets[:, None])[:, 0]

    def row_table(self, task_labels: Tensor | None = None) -> Tensor:
        """The row of every class for each sample, ``(n, classes)``, or ``(1, classes)`` where all are alike."""
        missing = 0 if self.training else max(0, self._min_width - self.row_of.shape[1])
        table = F.pad(self.row_of, (0, missing), value=-1)
        if len(table) == 0:
            return table.new_full((1, max(1, table.shape[1])), -1)
        if len(table) == 1 and (task_labels is None or not self.multi_head):
            return table
        if task_labels is None:
            if self.multi_head:
                raise ValueError(
                    "task_labels=None: class labels restart in every task of this stream, so the task must be given"
                )
            return table.amax(0, keepdim=True)
        # One more row serves the labels never seen: every class, or none where the classes are not comparable.
        fallback = torch.full_like(table[:1], -1) if self.multi_head else table.amax(0, keepdim=True)
        match = task_labels[:, None] == self.task_labels  # (n, tasks)
        unseen = ~match.any(1, keepdim=True)  # (n, 1)
        index = torch.cat([match, unseen], 1).to(torch.uint8).argmax(1)  # (n,)
        return torch.cat([table, fallback])[index]
