"""Whether the first task helped classes that it did not know, as the images of the second one tell beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.heads.discriminant import fit_lda
from avalanche_sdlora.heads.evidence import clearly_worse, judge
from avalanche_sdlora.heads.statistics import FeatureStatistics
from avalanche_sdlora.heads.trial import Trial
from avalanche_sdlora.processes import from_first

#: In so many parts the images are divided, each of which is classified by the others.
FOLDS = 5

#: What may have been found, by its number in a state.
_FOUND = (None, True, False)


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


class SecondLook(nn.Module):
    """Keeps the way back to the features of before a first task until the second one has judged them.

    Args:
        spaces: The names of the statistics that a head keeps.

    Attributes:
        found: While the second task is learned, whether the features stay what the first one made of them; None where
            it has not been asked.
    """

    def __init__(self, spaces: Iterable[str]) -> None:
        super().__init__()
        self.found: bool | None = None
        self.spare = nn.ModuleDict({space: Spare() for space in spaces})

    def get_extra_state(self) -> Tensor:
        """What was found, which is no tensor otherwise, so that reading it never waits for a device."""
        return torch.tensor(_FOUND.index(self.found))

    def set_extra_state(self, state: Tensor) -> None:
        """The opposite of :meth:`get_extra_state`.

        Raises:
            ValueError: Nothing that may be found.
        """
        found = int(state)
        if not 0 <= found < len(_FOUND):
            raise ValueError(f"found={found}: expected 0 for not asked, 1 for kept, or 2 for taken back")
        self.found = _FOUND[found]

    @property
    def doubts(self) -> bool:
        """Whether there is a way back."""
        return any(len(s.labels) for s in self.spare.values())  # type: ignore[arg-type]

    @property
    def goes_back(self) -> bool:
        """Whether the way back has been taken."""
        return self.found is False

    def judge(self, plain: Tensor, moved: Tensor, y: Tensor) -> bool:
        """Whether the features stay what the first task made of them, see :func:`helped`; the first process decides."""
        # What is not finite is refused when it is remembered.
        finite = bool(torch.isfinite(moved).all() & torch.isfinite(plain).all())
        self.found = from_first(lambda: not finite or helped(plain, moved, y))
        return self.found

    def hold(self, before: Trial) -> None:
        """Keeps the statistics of the first task by the features of ``before`` it."""
        for space, spare in self.spare.items():
            spare.hold(before.base[space], before.held[space])  # type: ignore[operator]

    def way_back(self) -> dict[str, FeatureStatistics]:
        """These statistics, which are the caller's own."""
        return {space: spare.taken() for space, spare in self.spare.items()}  # type: ignore[operator]

    def forget(self) -> None:
        """There is no way back any more."""
        for spare in self.spare.values():
            spare.clear()  # type: ignore[operator]


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
    fold = index.argsort(stable=True).argsort() % FOLDS  # classes one after another: each part has its share of each
    scores = torch.zeros(len(x), len(classes), dtype=torch.float64, device=x.device)
    for part in fold.unique():
        judged = fold == part
        statistics = FeatureStatistics(x.shape[1]).to(x.device)
        statistics.update(x[~judged], index[~judged])
        weight, bias = fit_lda(statistics)
        scores[judged] = F.linear(x[judged].to(weight), weight, bias)[:, statistics.labels.argsort()]
    return judge([scores], index).surprisal[0]
