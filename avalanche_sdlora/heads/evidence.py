"""What held-out images say of several classifiers: which is right most often, and how sure it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avalanche_sdlora.heads.sureness import POWERS, WIDTHS, at_once, least, surprise

#: The temperatures that are compared, 20 in every decade from 0.001 to 100.
TEMPERATURES = torch.logspace(-3, 2, 101, dtype=torch.float64)

#: What older experiences count for in a temperature, with every new one.
FADING = 0.5

#: What they count for in a power and a width, which depend less on how many classes there are.
SURE_FADING = 0.8


class Verdict(NamedTuple):
    """How several classifiers did on the same held-out images.

    Attributes:
        right: ``(classifiers, n)``, whether each image was classified right.
        surprisal: ``(classifiers, n)``, negative log likelihood of each image's true class, in nats, by probabilities
            of the temperature that suits the classifier best on these images and one more of any class.
        loss: ``(classifiers, temperatures)``, summed negative log likelihood of the true classes, in nats.
        doubt: ``(classifiers, temperatures)``, that sum for classes drawn evenly from those that compete.
        tells: ``(classifiers, n)``, whether an image says which classifier is best, see :func:`tells_which`.
        scores: ``(classifiers, n, k)``, of the ``k`` classes that compete.
        targets: ``(n,)``, the index of the true class among them.
    """

    right: Tensor
    surprisal: Tensor
    loss: Tensor
    doubt: Tensor
    tells: Tensor
    scores: Tensor
    targets: Tensor

    def of(self, classifier: int) -> Verdict:
        """That on one of the classifiers alone."""
        return self._replace(**{name: t[classifier : classifier + 1] for name, t in self._each().items()})

    def before(self, others: Verdict) -> Verdict:
        """That on these classifiers and then others, on the same images."""
        also = others._each()
        return self._replace(**{name: torch.cat([t, also[name]]) for name, t in self._each().items()})

    def surprise(self) -> Tensor:
        """:func:`avalanche_sdlora.heads.sureness.surprise` of each, ``(classifiers, 2, powers, widths)``."""
        return torch.stack([surprise(s.double(), self.targets) for s in self.scores])

    def _each(self) -> dict[str, Tensor]:
        """What has a row for each classifier."""
        return {name: t for name, t in self._asdict().items() if name != "targets"}


def tells_which(y: Tensor, held: Tensor) -> Tensor:
    """Whether an image says, if it is held out, which classifier is best once it has been learned, too.

    Where more than a fifth of a class's images are held out, as of two images one is, classifiers are judged by what
    they make of too few: another may be best with all of them.

    Args:
        y: ``(n,)``, the classes of an experience's images.
        held: ``(n,)``, which of them are held out.

    Returns:
        ``(n,)``, the same for all images of a class.
    """
    _, own, sizes = y.unique(return_inverse=True, return_counts=True)
    out = torch.zeros_like(sizes).index_add_(0, own, held.to(sizes))
    return (5 * out <= sizes)[own]


def judge(scores: Sequence[Tensor], targets: Tensor, tells: Tensor | None = None) -> Verdict:
    """Judges classifiers by their scores.

    Args:
        scores: Of each classifier, ``(n, k)``: those of the ``k`` classes that compete.
        targets: ``(n,)``, the index of the true class among them.
        tells: ``(n,)``, which images say which classifier is best; None: all.
    """
    right = torch.stack([s.argmax(1) == targets for s in scores])
    n = len(targets)
    losses, doubts, surprisals = [], [], []
    for s in scores:
        parts = []
        for temperatures in at_once(TEMPERATURES.to(s.device), s.numel()):
            log_p = torch.log_softmax(s.double() / temperatures[:, None, None], dim=2)  # (temperatures, n, k)
            of_true = log_p.gather(2, targets[:, None].expand(len(temperatures), n, 1))[..., 0]
            parts.append((-of_true, -log_p.mean(2).sum(1)))
        of_true, doubt = (torch.cat(part) for part in zip(*parts))
        losses.append(of_true.sum(1))
        doubts.append(doubt)
        surprisals.append(of_true[int((losses[-1] + doubt / max(1, n)).argmin())])
    tells = torch.ones_like(targets, dtype=torch.bool) if tells is None else tells
    every = tells.expand(len(scores), n)
    summed = (torch.stack(surprisals), torch.stack(losses), torch.stack(doubts))
    return Verdict(right, *summed, every, torch.stack(list(scores)), targets)


def clearly_worse(loss: Tensor, before: Tensor) -> bool:
    """Whether a classifier's losses on ``n`` images are clearly higher than another's, see :func:`clearly_above_zero`.

    The surprisal tells apart what counts of right images do not: where few are held out, most of them stay right or
    wrong while the probability of their class falls.

    Args:
        loss: ``(n,)``, the classifier's: surprisal (:class:`Verdict`), or 1 where it is wrong and 0 where it is right.
        before: ``(n,)``, the other's.
    """
    return bool(clearly_above_zero(*moments(loss - before)))


def moments(difference: Tensor) -> Tensor:
    """The sum ``(2,)`` of paired differences ``(n,)``, and that of their squares: what adds up over experiences."""
    return torch.stack([difference.sum(), difference.square().sum()])


def clearly_above_zero(total: Tensor, squares: Tensor) -> Tensor:
    """Whether a sum of differences exceeds its standard error if their mean is 0, the root of the sum of squares.

    One more image counts with them, of a difference of 1: a few equal images would otherwise make rounding clear.
    """
    return total > (squares + 1).sqrt()


def counts(verdict: Verdict) -> tuple[Tensor, Tensor, Tensor]:
    """Of the images that say which classifier is best, how many each has right, alone or not.

    Returns:
        ``(classifiers,)`` each: how many it has right; how many it has right and the first one wrong; and the other way
        round.
    """
    right = verdict.right & verdict.tells
    first = right[0]
    return right.sum(1), (right & ~first).sum(1), (first & ~right).sum(1)


def clearly_more(won: Tensor, lost: Tensor) -> Tensor:
    """Whether the difference of paired counts exceeds its standard error, the root of their sum."""
    return won - lost > (won + lost).sqrt()


class Evidence(nn.Module):
    """The verdicts on the held-out images of a stream, summed up: no image is kept.

    Args:
        classifiers: How many are compared.

    Attributes:
        held: Number of images so far that say which classifier is best.
        hits: ``(classifiers,)``, how many of them each classified right.
        won: ``(classifiers,)``, how many each had right and the first one wrong.
        lost: ``(classifiers,)``, the other way round.
        harm: ``(2,)``, by how many nats images in the place of old classes surprise more after an experience than
            before it, and the sum of the squares; of the experiences that were kept, and of all before the first such.
        moved: 1 once an experience has been kept: features are not what they were at first any more.
        loss: ``(classifiers, temperatures)``, see :class:`Verdict`; older experiences count less and less, by half
            with every new one, since with fewer classes another temperature was right.
        doubt: ``(classifiers, temperatures)``, summed with the weights of ``loss``.
        recent: Number of images in ``loss``, of which the older count less.
        surprise: ``(classifiers, 2, powers, widths)``, see :meth:`Verdict.surprise`; older experiences count less here,
            too.
        looked: Number of images in ``surprise``, of which the older count less.
    """

    held: Tensor
    hits: Tensor
    won: Tensor
    lost: Tensor
    harm: Tensor
    moved: Tensor
    loss: Tensor
    doubt: Tensor
    surprise: Tensor
    recent: Tensor
    looked: Tensor

    def __init__(self, classifiers: int) -> None:
        super().__init__()
        for name, shape in (
            ("held", ()),
            ("hits", (classifiers,)),
            ("won", (classifiers,)),
            ("lost", (classifiers,)),
            ("harm", (2,)),
            ("moved", ()),
            ("loss", (classifiers, len(TEMPERATURES))),
            ("doubt", (classifiers, len(TEMPERATURES))),
            ("surprise", (classifiers, 2, len(POWERS), len(WIDTHS))),
            ("recent", ()),
            ("looked", ()),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def add(self, verdict: Verdict, look: Verdict | None = None) -> None:
        """Adds an experience's verdict.

        Args:
            verdict: Says which classifier is best.
            look: On other images; both say how sure to be (:meth:`sureness`).
        """
        both = [verdict] if look is None else [verdict, look]
        hits, won, lost = counts(verdict)
        self.held += verdict.tells[0].sum()
        self.hits += hits
        self.won += won
        self.lost += lost
        for name, fading, new in (
            ("loss", FADING, verdict.loss),
            ("doubt", FADING, verdict.doubt),
            ("recent", FADING, len(verdict.targets)),
            ("surprise", SURE_FADING, sum(each.surprise() for each in both)),
            ("looked", SURE_FADING, sum(len(each.targets) for each in both)),
        ):
            getattr(self, name).mul_(fading).add_(new)

    @torch.no_grad()
    def worth_keeping(self, before: Verdict, after: Verdict | None) -> bool:
        """Whether what a later experience taught is kept, by what it does to old classes; adds that up.

        One experience holds few images out, all of them hold more, so those kept so far count with it. Together they
        must not clearly harm. As long as nothing has been kept, the features are those of the start, which are not left
        without a reason: all experiences so far, were they kept or not, must clearly help. What is compared is the
        classifier that ``before`` would choose.

        Args:
            before: On images as the features before the experience show them.
            after: On these images in the place of old classes; None: nothing is known of these.
        """
        if after is None:
            return bool(self.moved)
        i = self.best(before)
        harm = self.harm + moments(after.surprisal[i] - before.surprisal[i])
        worth = not clearly_above_zero(*harm) if self.moved else bool(clearly_above_zero(-harm[0], harm[1]))
        if worth or not self.moved:
            self.harm.copy_(harm)
        return worth

    def go_back(self) -> None:
        """The features are those of the start again: nothing has been kept so far."""
        self.moved.zero_()
        self.harm.zero_()

    def clear(self) -> None:
        """Forgets everything."""
        for buffer in self.buffers():
            buffer.zero_()

    def best(self, verdict: Verdict | None = None) -> int:
        """The first classifier, unless others are clearly better: of these the one with the most hits.

        A task holds few images out, so the first should be the one to expect most of. Better by more than the standard
        error of the paired difference is clearly better.

        Args:
            verdict: On images that count as if they had been added.
        """
        hits, won, lost = self.hits, self.won, self.lost
        if verdict is not None:
            hits, won, lost = (old + new for old, new in zip((hits, won, lost), counts(verdict)))
        better = clearly_more(won, lost)
        return int(hits.masked_fill(~better, -1).argmax()) if better.any() else 0

    def temperature(self, classifier: int, verdict: Verdict | None = None) -> float:
        """The temperature under which the held-out images are most likely (Guo et al., ICML 2017, arXiv 1706.04599).

        One more image counts with them, of any class: a few images that are all right would otherwise want certainty.
        1 where there are no held-out images.

        Args:
            classifier: Which.
            verdict: On that classifier alone, of images that count as if they had been added.
        """
        loss, doubt, recent = self.loss[classifier], self.doubt[classifier], float(self.recent)
        if verdict is not None:
            loss, doubt = FADING * loss + verdict.loss[0], FADING * doubt + verdict.doubt[0]
            recent = FADING * recent + len(verdict.targets)
        return float(TEMPERATURES[int((loss + doubt / recent).argmin())]) if recent else 1.0

    def sureness(self, classifier: int) -> tuple[int, float] | None:
        """Power and width under which the largest probability forecasts best whether it is right; None without images.

        As for :meth:`temperature`, one more image of any class counts. What is asked for is how often a prediction is
        right, which is what people read: a few images whose true class gets next to nothing decide the likelihood of
        the classes, and make small probabilities too small.
        """
        if not self.looked:
            return None
        true, drawn = self.surprise[classifier]
        return least(true + drawn / self.looked)
