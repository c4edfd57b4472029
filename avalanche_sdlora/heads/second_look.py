"""Whether the first task helped classes that it did not know, as the images of the second one tell beforehand."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_sdlora.heads.discriminant import fit_lda
from avalanche_sdlora.heads.evidence import clearly_worse, judge
from avalanche_sdlora.heads.statistics import FeatureStatistics

#: In so many parts the images are divided, each of which is classified by the others.
FOLDS = 5


class Spare(FeatureStatistics):
    """Statistics that may be empty, of any size; those of a first experience by the features before it."""

    GROWING: ClassVar = {"second": (0, 1), "labels": (0,), "counts": (0,), "sums": (0, 1)}

    def __init__(self) -> None:
        super().__init__(0)

    def hold(self, *parts: FeatureStatistics) -> None:
        """Takes the sum of ``parts``."""
        whole = parts[0].copy()
        for part in parts[1:]:
            whole.add(part)
        for name in self.GROWING:
            self.replace(name, getattr(whole, name))

    def taken(self) -> FeatureStatistics:
        """Statistics of their own with equal contents."""
        own = FeatureStatistics(len(self.second)).to(self.second.device)
        own.add(self)
        return own

    def clear(self) -> None:
        """Forgets everything, its size too."""
        for name in self.GROWING:
            old = getattr(self, name)
            self.replace(name, old.new_empty([0] * old.dim()))


def helped(plain: Tensor, moved: Tensor, y: Tensor) -> bool:
    """Whether images that have never been trained on are recognised clearly better once the features have moved.

    A first task is judged by few images of its own held out, and of its own classes, which are not what it moves the
    features for. Those of the next task are many, and of classes to come.

    Args:
        plain: Features ``(n, d)`` of the images before the first task.
        moved: Those after it.
        y: ``(n,)``, their classes.

    Returns:
        Whether they surprise less, by more than the standard error of the paired difference
        (:func:`avalanche_sdlora.heads.evidence.clearly_worse`); not where there are no two classes of two images.
    """
    _, index, counts = y.unique(return_inverse=True, return_counts=True)
    several = (counts > 1)[index]
    plain, moved, index = plain[several], moved[several], index[several]
    if int((counts > 1).sum()) < 2:
        return False
    return clearly_worse(surprisal(plain, index), surprisal(moved, index))


def surprisal(x: Tensor, y: Tensor) -> Tensor:
    """How much each image surprises linear discriminants of the others, in nats ``(n,)``, by cross-validation.

    Args:
        x: Features ``(n, d)``.
        y: Their classes ``(n,)``, of each at least two.
    """
    classes, index = y.unique(return_inverse=True)
    order = index.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)  # classes one after another,
    fold = place % FOLDS  # so that each part has its share of each
    scores = torch.zeros(len(x), len(classes), dtype=torch.float64, device=x.device)
    for part in fold.unique():
        judged = fold == part
        statistics = FeatureStatistics(x.shape[1]).to(x.device)
        statistics.update(x[~judged], index[~judged])
        weight, bias = fit_lda(statistics)
        scores[judged] = F.linear(x[judged].to(weight), weight, bias)[:, statistics.labels.argsort()]
    return judge([scores], index).surprisal[0]
