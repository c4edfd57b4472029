"""The training loss: a criterion over the classes of the current experience only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.heads.growing_head import MASKED
from avalanche_sdlora.processes import all_sum, several, size


class CurrentClassesLoss(GrowingModule):
    """Applies ``criterion`` to the logits of the current classes in training, and of all classes in evaluation.

    The other logits get the value -1000 and therefore no gradient (cross-entropy over the current classes, as in the
    authors' code). A batch that holds other classes too, as replay serves them, is learned over all classes seen.

    In evaluation a sample of a class that has not been seen, or not under its task label, counts as an even guess over
    all ``C`` columns of its logits: ``log C`` in cross-entropy. No model can know such a class, and the loss of a mask
    of -1000 would drown every mean over a stream that has it. ``C`` is the number of classes up to the largest label of
    the evaluated stream, whatever has been learned of it, so that losses can be compared along the stream. Accuracy
    counts these samples as wrong.

    ``torch.nn.CrossEntropyLoss`` may have a weight for each class of the whole stream. Its label smoothing spreads the
    probability over the classes that compete, and in evaluation over those seen. Targets may be class probabilities
    ``(n, classes)`` instead of labels, as mixing augmentations make them; a class without a column has none.

    In training, each of several processes has a part of the batch and gets the loss whose mean over the processes is
    that of the batch: its own times ``N w / sum of w`` for ``N`` processes, where ``w`` is what the criterion divides
    by. That is the number of samples, the sum of their weights for ``torch.nn.CrossEntropyLoss``, and nothing where the
    criterion's ``reduction`` is "sum".

    Args:
        criterion: Takes logits ``(n, classes)`` and class labels ``(n,)``. Its value must not depend on the logits of
            classes that do not compete once these are very small. In several processes it is a mean over samples, or
            what its ``reduction`` says.

    Attributes:
        counts: Whether the samples are this process's part of the batch; a process without one has another's sample.
        portion: By what this process's mean over the samples of the last training batch is multiplied, for the mean
            over the processes to be that over the batch; 1 in one process. For losses that plugins add.
    """

    GROWING: ClassVar = {"current": (0,), "seen": (0,)}

    current: Tensor
    seen: Tensor

    def __init__(self, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.criterion = criterion
        self.register_buffer("current", torch.zeros(0, dtype=torch.bool))  # (classes,)
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))  # (classes,)
        self._checked = False
        self._ignores = False  # known to ignore the classes that do not compete
        self.counts = True
        self.portion: Tensor | float = 1.0

    def begin_experience(self, current: Iterable[int], seen: Iterable[int], device: torch.device) -> None:
        """Makes ``current`` the classes to learn, out of all those ``seen`` so far."""
        self.seen = _mask(seen, device)
        self.current = _mask(current, device, width=len(self.seen))
        self._checked = False

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The criterion's value for ``logits (n, classes)`` and ``targets``, ``(n,)`` or ``(n, classes)``.

        Raises:
            ValueError: In training, a target is none of the classes seen; where looking would wait for the device, only
                the first batch of an experience is looked at. Or the criterion counts classes that do not compete, as
                label smoothing outside ``torch.nn.CrossEntropyLoss`` does; that is seen at the first such batch.
        """
        weight = getattr(self.criterion, "weight", None)
        classes = max(logits.shape[1], 0 if weight is None else len(weight))
        if targets.dim() == 2:
            classes = max(classes, targets.shape[1])
            targets = F.pad(targets, (0, classes - targets.shape[1]))
        logits = F.pad(logits, (0, classes - logits.shape[1]), value=MASKED)
        if not self.training:
            seen = F.pad(self.seen, (0, classes))[:classes]
            unknown = _unknown(logits, targets, seen)
            return self._criterion(logits.masked_fill(unknown[:, None], 0.0), targets, seen)
        if looking_is_free(logits.device) or not self._checked:
            _check(targets, self.seen)
            self._checked = True
        others = ~_all_in(targets, F.pad(self.current, (0, classes - len(self.current))))  # a scalar
        factor: Tensor | None = None
        if several():
            others, factor = self._together(targets, others)
        competing = self._competing(others, classes)
        if not self._ignores and not _is_cross_entropy(self.criterion):
            self._ignores = self._check_ignores(logits, targets, competing)
        loss = self._criterion(logits.masked_fill(~competing, MASKED), targets, competing)
        if factor is None:
            return loss
        if looking_is_free(loss.device) and not factor:  # where all labels are ignored the mean is 0/0
            return loss.new_zeros(()) + 0 * logits.sum()
        return loss * factor.to(loss.dtype)

    def _together(self, targets: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the whole batch holds other classes, and by what the loss of this process's part is multiplied."""
        divisor = _divisor(self.criterion, targets)
        own = torch.stack([divisor, divisor.new_tensor(len(targets)), others.double()]) * self.counts
        divisor, samples, some = all_sum(own).unbind()
        self.portion = size() * own[1] / samples
        if getattr(self.criterion, "reduction", "mean") == "sum":
            return some > 0, own.new_tensor(float(size() * self.counts))
        return some > 0, size() * own[0] / divisor

    @torch.no_grad()
    def compete(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of a training batch in which those that take no part in its loss are -1000.

        Args:
            logits: ``(n, classes)``.
            targets: ``(n,)`` or ``(n, classes)``, as for :meth:`forward`.
        """
        classes = max(logits.shape[1], len(self.seen), targets.shape[1] if targets.dim() == 2 else 0)
        if targets.dim() == 2:
            targets = F.pad(targets, (0, classes - targets.shape[1]))
        others = ~_all_in(targets, F.pad(self.current, (0, classes - len(self.current))))
        competing = self._competing(others, classes)[: logits.shape[1]]
        return logits.detach().masked_fill(~competing, MASKED)

    def _competing(self, others: Tensor, classes: int) -> Tensor:
        """The classes ``(classes,)`` over which a batch is learned, which may hold others than the current ones."""
        current, seen = (F.pad(mask, (0, classes - len(mask))) for mask in (self.current, self.seen))
        return current | (seen & others)

    def _criterion(self, logits: Tensor, targets: Tensor, competing: Tensor) -> Tensor:
        criterion = self.criterion
        if not _is_cross_entropy(criterion) or not criterion.label_smoothing:
            return criterion(logits, targets)
        return smoothed_cross_entropy(logits, targets, competing, criterion)

    @torch.no_grad()
    def _check_ignores(self, logits: Tensor, targets: Tensor, competing: Tensor) -> bool:
        """Whether the criterion is known now to ignore logits that are masked; False where there are none."""
        if bool(competing.all()):
            return False
        values = (MASKED, MASKED, 2 * MASKED)  # twice, since a criterion may be random
        one, again, other = (self.criterion(logits.masked_fill(~competing, value), targets) for value in values)
        if torch.equal(one, again) and not torch.allclose(one, other, rtol=1e-3):
            name = getattr(self.criterion, "__name__", type(self.criterion).__name__)
            raise ValueError(
                f"criterion: the value of {name} depends on classes that do not compete in this batch (with logits of "
                f"{MASKED:.0f} for them {float(one.mean()):.4g}, with {2 * MASKED:.0f} {float(other.mean()):.4g}). For "
                "label smoothing use torch.nn.CrossEntropyLoss(label_smoothing=...), which spreads over those that do"
            )
        return True


def _is_cross_entropy(criterion: Any) -> TypeGuard[nn.CrossEntropyLoss]:
    """Whether it computes what ``torch.nn.CrossEntropyLoss`` does; a subclass may have a forward of its own."""
    return isinstance(criterion, nn.CrossEntropyLoss) and type(criterion).forward is nn.CrossEntropyLoss.forward


def looking_is_free(device: torch.device) -> bool:
    """Whether the host reads a number from ``device`` without waiting for it."""
    return device.type == "cpu"


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, competing: Tensor, criterion: nn.CrossEntropyLoss
) -> Tensor:
    """Cross-entropy with label smoothing over the ``K`` classes that compete (Szegedy et al., arXiv 1512.00567).

    Of the probability of each sample, ``label_smoothing`` is spread evenly over those classes. On logits that hold just
    these classes it equals ``torch.nn.CrossEntropyLoss``.

    Args:
        logits: ``(n, classes)``.
        targets: Class labels ``(n,)``, or probabilities ``(n, classes)``.
        competing: ``(classes,)``, of which at least one is true.
        criterion: Gives ``weight``, ``reduction``, ``ignore_index`` and ``label_smoothing``.
    """
    epsilon, weight = criterion.label_smoothing, criterion.weight
    log_p = torch.log_softmax(logits, dim=1)
    weights = logits.new_ones(logits.shape[1]) if weight is None else weight.to(logits)
    even = competing.to(logits) / competing.sum().clamp(min=1)  # (classes,)
    if targets.dim() == 2:
        mixed = (1 - epsilon) * targets + epsilon * even * targets.sum(1, keepdim=True)
        losses, size = -(mixed * log_p * weights).sum(1), torch.full_like(logits[:, 0], 1.0)
    else:
        counts = (targets != criterion.ignore_index).to(logits)
        chosen = torch.where(counts > 0, targets, 0)
        size = weights[chosen] * counts
        own = -log_p.gather(1, chosen[:, None])[:, 0] * size
        losses = (1 - epsilon) * own - epsilon * counts * (even * log_p * weights).sum(1)
    if criterion.reduction == "none":
        return losses
    return losses.sum() if criterion.reduction == "sum" else losses.sum() / size.sum()


def _divisor(criterion: Any, targets: Tensor) -> Tensor:
    """What a criterion that is a mean divides the sum over the samples by, a float64 scalar."""
    if not _is_cross_entropy(criterion) or targets.dim() == 2:
        return targets.new_tensor(len(targets), dtype=torch.float64)
    counts = (targets != criterion.ignore_index).double()
    if criterion.weight is None:
        return counts.sum()
    return (criterion.weight.double()[torch.where(counts > 0, targets, 0)] * counts).sum()


def _unknown(logits: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Which samples ``(n,)`` have a class that is not ``seen (classes,)``, or not under their task label."""
    if targets.dim() == 2:
        return ((targets != 0) & ~seen).any(1)
    labels = targets.clamp(min=0)  # negative labels are those that criteria ignore
    masked = logits.detach().gather(1, labels[:, None])[:, 0] == MASKED
    return (~seen[labels] | masked) & (targets >= 0)


def _all_in(targets: Tensor, classes: Tensor) -> Tensor:
    """Whether all targets are of these ``classes (classes,)``, a scalar."""
    if targets.dim() == 2:
        return ~((targets != 0) & ~classes).any()
    # Negative labels are those that criteria ignore.
    return (classes.index_select(0, targets.clamp(min=0)) | (targets < 0)).all()


def _check(targets: Tensor, seen: Tensor) -> None:
    labels = targets.nonzero()[:, 1] if targets.dim() == 2 else targets[targets >= 0]
    known = set(seen.nonzero().flatten().tolist())
    unknown = sorted(set(labels.tolist()) - known)
    if unknown:
        raise ValueError(
            f"targets: the classes {unknown} are not among those being learned, {sorted(known)}. The classes of an "
            "experience are read from strategy.adapted_dataset when it begins; a plugin or a loader that brings others "
            "later must bring them before"
        )


def _mask(labels: Iterable[int], device: torch.device, width: int = 0) -> Tensor:
    index = torch.tensor(sorted(labels))
    mask = torch.zeros(max(width, int(index.max()) + 1), dtype=torch.bool)
    mask[index] = True
    return mask.to(device)
