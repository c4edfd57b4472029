"""Classifiers solved in closed form from statistics of the features, gathered once per experience."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_sdlora.growing import GrowingModule
from avalanche_sdlora.heads.candidates import KINDS, Solved, candidates
from avalanche_sdlora.heads.drift import Frame
from avalanche_sdlora.heads.evidence import Evidence, Verdict, clearly_worse
from avalanche_sdlora.heads.expansion import RandomExpansion
from avalanche_sdlora.heads.growing_head import MASKED
from avalanche_sdlora.heads.penalties import Penalties
from avalanche_sdlora.heads.second_look import SecondLook
from avalanche_sdlora.heads.statistics import FeatureStatistics
from avalanche_sdlora.heads.sureness import POWERS, sure
from avalanche_sdlora.heads.trial import Images, Trial, Trials, followed, inputs, space_of
from avalanche_sdlora.processes import all_sum, from_first, gather_rows, is_first


class Lesson(NamedTuple):
    """What :meth:`ClosedFormHead.learn` decided, and on what grounds.

    Attributes:
        kept: Whether what the experience taught the features is kept; otherwise the head was made for the features
            before it, and the model must go back to them.
        classifier: The name of the classifier that predicts from now on.
        held_out: Number of the experience's images that were held out.
        right: How many of them the head has right that was made without them, on the features that are taken.
        right_before: How many on the features before the experience; None where they were not compared.
        loss: Their mean negative log likelihood, in nats, on the features after the experience; None where there are
            none to judge, or those features are not finite.
        loss_before: That on the features before the experience; None where they were not compared.
        old_loss: That of these images in the place of old classes, after the experience; None where that was not asked.
        hits: By name, how many of all images held out so far each classifier had right: those of the first experience
            as they were at its end, those of later ones as images of old classes are recognised.
        penalty: Of a ridge regression.
        temperature: What the scores were divided by.
        power: See :mod:`avalanche_sdlora.heads.sureness`; None where no images were held out: probabilities are the
            softmax of the scores.
        first_kept: At the second experience, whether what the first one taught the features was kept, judged by the
            images of the second before it was learned; otherwise None.
    """

    kept: bool
    classifier: str
    held_out: int
    right: int
    right_before: int | None
    loss: float | None
    loss_before: float | None
    old_loss: float | None
    hits: dict[str, int]
    penalty: float | None
    temperature: float
    power: int | None
    first_kept: bool | None = None


class ClosedFormHead(GrowingModule):
    """A linear classifier of features that is solved, not trained, and keeps no samples.

    Kinds, with the functions of this package that solve them: ``"ncm"`` (``discriminant.fit_ncm``), ``"lda"``
    (``discriminant.fit_lda``), ``"ridge"`` (``ridge.fit_ridge``) and ``"random_ridge"``, ridge regression
    after a fixed random expansion to ``M`` units (RanPAC: McDonnell et al., NeurIPS 2023, arXiv 2307.02251). With
    ``"auto"`` the statistics for all of them are gathered, and after every experience the product predicts of the
    probabilities of ``"random_ridge"`` and ``"lda"``, and of ``"ncm"`` as far as classes differ in size
    (:class:`avalanche_sdlora.heads.candidates.Candidate`), or another of them that was clearly right more often on the
    images held out so far. :meth:`sure` makes probabilities of scores: the largest says how often it is right on those
    images.

    Memory does not depend on the number of samples: for ``D`` features (``d``, or ``M`` after the expansion; both with
    ``"auto"``) and ``C`` classes the statistics take ``8 (D^2 + C D + 2 C)`` bytes and the solution ``8 C (D + 1)``,
    for the product with ``D = M + d``;
    the random matrix, ``4 d M``, is drawn from a seed. Following features of ``p`` parts takes ``8 (d^2 / p + d)``
    bytes; and for the ``n`` images of the present experience alone ``4 n d`` from its beginning to its end, at which it
    is twice that and ``8 (2 (d / p)^2 + 2 d / p + 2)``.

    Args:
        features: Size ``d`` of a feature.
        kind: One of the four, or "auto".
        drift: ``"linear"``: features that move are followed, as :class:`avalanche_sdlora.heads.drift.Frame` describes.
            ``"none"``: statistics of all experiences are added up as if nothing moved.
        expansion: ``M``; None: see :func:`avalanche_sdlora.heads.candidates.candidates`.
        seed: Draws the expansion.
        parts: The number of vectors, all of one size, that a feature is made of
            (:mod:`avalanche_sdlora.heads.readout`): each is followed on its own.

    Attributes:
        learning: Whether an experience has begun that has not been learned yet; then it is not :attr:`ready`.
        candidates: What may be chosen.
        chosen: The index of what predicts.
        penalty: Of that, if it is a ridge regression, once it is solved.
        temperature: What its scores have been divided by.
        power: ``k`` of :mod:`avalanche_sdlora.heads.sureness`; None where no images were held out: the softmax of the
            scores is all there is.
        second_look: The way back to the features of before the first experience.

    Raises:
        ValueError: An argument is out of range.
    """

    GROWING: ClassVar = {"weight": (0, 1), "bias": (0,), "before": (0,)}

    weight: Tensor
    bias: Tensor
    before: Tensor

    def __init__(
        self,
        features: int,
        kind: str = "auto",
        drift: str = "none",
        expansion: int | None = None,
        seed: int = 0,
        parts: int = 1,
    ) -> None:
        super().__init__()
        if kind not in (*KINDS, "auto"):
            raise ValueError(f"kind={kind!r}: expected one of {', '.join(map(repr, (*KINDS, 'auto')))}")
        if drift not in ("none", "linear"):
            raise ValueError(f"drift={drift!r}: expected 'none' or 'linear'")
        if expansion is not None and (type(expansion) is not int or expansion < 1):
            raise ValueError(f"expansion={expansion!r}: expected an integer of at least 1, or None")
        self.learning = False
        self.parts = parts
        self.penalty: float | None = None
        self.temperature = 1.0
        self.power: int | None = None
        self.candidates = candidates(kind, expansion)
        self.chosen = 0
        units = max(c.units for c in self.candidates)
        self.expand = RandomExpansion(features, units, seed) if units else None
        sizes = {space_of(c): units if c.units else features for c in self.candidates}
        self.sums = nn.ModuleDict({space: FeatureStatistics(size) for space, size in sizes.items()})
        self.second_look = SecondLook(sizes)
        self.evidence = Evidence(len(self.candidates))
        self._trials = Trials(self.candidates, self.expand, self.evidence)
        self.penalties = Penalties()
        self.register_buffer("before", torch.empty(0, features))  # (n, d)
        self.register_buffer("weight", torch.empty(0, self._size, dtype=torch.float64))  # (rows, D)
        self.register_buffer("bias", torch.empty(0, dtype=torch.float64))  # (rows,)
        self.frame = Frame(features, parts) if drift == "linear" else None

    def get_extra_state(self) -> Tensor:
        """Three plain attributes, which are no tensors otherwise, so that reading them never waits for a device."""
        return torch.tensor([int(self.learning), self.chosen, self.power or 0])

    def set_extra_state(self, state: Tensor) -> None:
        """The opposite of :meth:`get_extra_state`.

        Raises:
            ValueError: No such candidate, or no power that was compared.
        """
        learning, chosen, power = map(int, state)
        if not 0 <= chosen < len(self.candidates):
            raise ValueError(f"chosen={chosen}: this head chooses among {len(self.candidates)} classifiers")
        if power not in (0, *POWERS):
            raise ValueError(f"power={power}: expected one of {', '.join(map(str, POWERS))}, or 0 for none")
        self.learning, self.chosen, self.power = bool(learning), chosen, power or None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClosedFormHead:
        """Moves with the model to another device, but stays in float64 when the model takes another type."""

        def applied(t: Tensor) -> Tensor:
            new = fn(t)
            narrowed = t.dtype == torch.float64 and new.dtype != torch.float64
            return t.to(new.device) if narrowed else new

        super()._apply(applied, recurse)
        return self

    @property
    def _size(self) -> int:
        """``D`` of the classifier that predicts."""
        return self.candidates[self.chosen].inputs(self.before.shape[1])

    @property
    def statistics(self) -> FeatureStatistics:
        """What the classifier that predicts is made from, or a mixture's first part; classes are rows of the head."""
        return self.sums[space_of(self.candidates[self.chosen])]  # type: ignore[return-value]

    @property
    def ready(self) -> bool:
        """Whether there is something to predict with, of all that has begun to be learned."""
        return len(self.weight) > 0 and not self.learning

    @property
    def follows(self) -> bool:
        """Whether features are wanted from before an experience."""
        return self.frame is not None and len(self.statistics.labels) > 0

    @torch.no_grad()
    def remember(self, batches: Iterable[Tensor]) -> None:
        """Keeps the features ``(n, d)`` of an experience's images, in batches, until :meth:`learn`.

        Each of several processes keeps those of its own images.

        Raises:
            ValueError: There are none, in any process, or some are not finite.
        """
        features = [x.to(self.before.dtype) for x in batches]
        own = [sum(map(len, features)), sum(int((~torch.isfinite(x)).any(1).sum()) for x in features)]
        images, bad = map(int, all_sum(torch.tensor(own, device=self.before.device)))
        if not images:
            raise ValueError("batches: empty; expected the features of an experience's images")
        if bad:
            raise ValueError(
                f"batches: the features of {bad} of the experience's {images} images are NaN or infinite; expected "
                "finite ones. Look for NaN in the images themselves"
            )
        self.replace("before", torch.cat([self.before[:0], *features]))

    def abandon(self) -> None:
        """Forgets that an experience has begun: the solution from before it predicts again."""
        self.replace("before", self.before[:0])
        self.learning, self.second_look.found = False, None

    @torch.no_grad()
    def look_again(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> bool:
        """Whether the features stay what the first experience made of them; :meth:`learn` will follow.

        Args:
            batches: Of the second experience's images the features ``(n, d)`` of before the first, those of now, and
                the classes ``(n,)``, in batches. In several processes, those of each one's own images.
        """
        none = (self.before[:0], self.before[:0], self.statistics.labels[:0])  # a process may have no images
        return self.second_look.judge(*gather_rows(*map(torch.cat, zip(none, *batches))))

    @torch.no_grad()
    def learn(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        rows: int,
        *,
        held: Tensor | None = None,
        competing: Tensor | None = None,
        repeats: bool = False,
        anew: bool = False,
        may_go_back: bool = False,
    ) -> Lesson:
        """Adds an experience to the statistics, chooses a classifier, and solves it.

        Where images are held out, the candidates are first made without them and judged by them; then those images,
        too, are added to the statistics.

        Args:
            batches: Its features ``(n, d)`` and the rows ``(n,)`` of their classes, in batches; the images in the order
                of :meth:`remember`. In several processes, those of each one's own images: all of them are gathered, and
                the first process decides and solves.
            rows: Number of rows of the linear head.
            held: ``(n,)``, which images were held out from training; None: none.
            competing: The rows that held-out images are classified among; None: all that have samples.
            repeats: The images are those of the experience learned last, whose features as they are in the statistics
                were given to :meth:`remember`: they are taken out of the statistics, so that no image counts twice.
            anew: Only these images count: statistics gathered before are forgotten, and so is the old features' frame.
            may_go_back: Whether the features of before the experience, if they were remembered, are taken where they
                are clearly better on the images held out, or where experiences have clearly harmed old classes; and
                as long as no experience has been kept unless they are clearly worse.

        Raises:
            ValueError: There are no images, or not as many as were remembered; a feature is not finite; or there are
                fewer rows than classes. Statistics and solution are then as they were.
        """
        x, y, before = self._collected(batches)
        self.replace("before", before)
        held = torch.zeros(len(y), dtype=torch.bool) if held is None else held
        images = Images(x, y, held.to(y.device), competing)

        def work() -> tuple[Lesson, dict[str, Tensor]]:
            lesson = self._learn(images, rows, repeats=repeats, anew=anew, may_go_back=may_go_back)
            return lesson, self.state_dict()

        lesson, state = from_first(work)
        if not is_first():
            self.load_state_dict(state)
        return lesson

    def _learn(self, images: Images, rows: int, *, repeats: bool, anew: bool, may_go_back: bool) -> Lesson:
        """:meth:`learn` from the images of all processes."""
        x, y, held, _ = images
        if not len(y):
            raise ValueError("batches: without images; expected those of an experience")
        if int(y.max()) >= rows:
            raise ValueError(f"rows={rows}: the linear head must have a row for each class, got {int(y.max())}")
        if not anew and len(self.before) not in (0, len(x)):
            raise ValueError(f"batches: {len(x)} images, but {len(self.before)} were remembered before the experience")
        base, frame = self._so_far(y, repeats, anew)
        samples = float(next(iter(base.values())).counts.sum()) + len(y)
        known = [] if anew or self.second_look.goes_back else self.penalties.known(samples)
        remembered = len(self.before) > 0 and not anew
        still = images._replace(x=self.before)
        after = before = None
        if torch.isfinite(x).all():
            moves = remembered and len(self.statistics.labels) > 0
            after = self._trials.attempt(images, base, followed(frame, self.before, x) if moves else frame, known)
        elif not (remembered and may_go_back):
            raise ValueError("batches: a feature is NaN or infinite; nothing has been added")
        first = not len(self.statistics.labels)
        if remembered and may_go_back:
            # The first experience moves features far, so that those before it need penalties of their own.
            own = [] if first else known if after is None else after.penalties
            before = self._trials.attempt(still, base, frame, own)
        if self.second_look.goes_back:
            self.evidence.go_back()
        taken = self._better(before, after, first=first)
        verdict, as_old = taken.verdict, None
        if before is not None and before.verdict is not None and taken is after and not first:
            as_old = self._trials.of_old_classes(base, before, self.before, images)
            if self.evidence.worth_keeping(before.verdict, as_old):
                verdict = as_old or verdict
            else:
                taken, verdict = before, before.verdict
        losses = [self._loss(v) for v in (after and after.verdict, before and before.verdict, as_old)]
        right_before = None if before is None or before.verdict is None else int(self._best(before.verdict)[0].sum())
        penalties = taken.penalties or known or [None] * len(self._trials.alone)
        looked = self.second_look.found
        if anew:
            self.evidence.clear()
        if verdict is not None:
            look = None if before is None or first else self._trials.ahead(before, still)
            self.evidence.add(verdict, look)
        self._commit(taken, rows, penalties)
        if first and before is not None and taken is after:
            self.second_look.hold(before)
        if not known:
            self.penalties.keep(penalties, samples)
        if taken is after:
            self.evidence.moved.fill_(1)
        return Lesson(
            kept=taken is after,
            classifier=self.candidates[self.chosen].name,
            held_out=int(held.sum()),
            right=0 if taken.verdict is None else int(taken.verdict.right[self.chosen].sum()),
            right_before=right_before,
            loss=losses[0],
            loss_before=losses[1],
            old_loss=losses[2],
            hits={c.name: int(n) for c, n in zip(self.candidates, self.evidence.hits)},
            penalty=self.penalty,
            temperature=self.temperature,
            power=self.power,
            first_kept=looked,
        )

    def _so_far(self, y: Tensor, repeats: bool, anew: bool) -> tuple[dict[str, FeatureStatistics], Frame | None]:
        """The statistics that count beside the experience's images of the rows ``y (n,)``, and their frame."""
        sums: dict[str, FeatureStatistics] = dict(self.sums.items())  # type: ignore[arg-type]
        if anew:
            empty = {space: FeatureStatistics(len(s.second)).to(y.device) for space, s in sums.items()}
            return empty, None if self.frame is None else Frame(len(self.frame.bias), self.frame.parts).to(y.device)
        if self.second_look.goes_back:
            return self.second_look.way_back(), self.frame
        base = {space: s.copy() for space, s in sums.items()}
        if repeats and len(self.before):
            for space, s in self._trials.gathered(self.before, y, self.frame, base).items():
                base[space].add(s, -1)
        return base, self.frame

    def _better(self, before: Trial | None, after: Trial | None, *, first: bool) -> Trial:
        """The features after an experience, unless those before it are clearly better or the only ones there are.

        The ``first`` one moves the features farthest, for all classes to come, by which it is judged at the beginning
        of the second (:class:`avalanche_sdlora.heads.second_look.SecondLook`); not without images to judge it by now.
        """
        if after is None or before is None:
            found = before if after is None else after
            assert found is not None
            return found
        if before.verdict is None or after.verdict is None:
            return before if first else after
        return before if clearly_worse(self._best(after.verdict)[1], self._best(before.verdict)[1]) else after

    def _best(self, verdict: Verdict) -> tuple[Tensor, Tensor]:
        """Where the classifier is right that a verdict would choose, ``(n,)``, and how each image surprises it."""
        i = self.evidence.best(verdict)
        return verdict.right[i], verdict.surprisal[i]

    def _loss(self, verdict: Verdict | None) -> float | None:
        return None if verdict is None else float(self._best(verdict)[1].mean())

    def _collected(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """All features ``(n, d)``, which are needed several times, the rows of their classes, and those remembered.

        They are those of all processes, in the order of the data set.
        """
        pairs = [(x if x.dtype == torch.float64 else x.to(self.before.dtype), y) for x, y in batches]
        if pairs:
            x, y = (torch.cat(column) for column in zip(*pairs))
        else:
            x, y = self.before[:0], self.statistics.labels[:0]
        x, y = gather_rows(x, y)
        return x, y, gather_rows(self.before)[0]

    def _commit(self, trial: Trial, rows: int, penalties: list[float | None]) -> None:
        """Makes a trial the state of this head, with the best candidate, as sure as held-out images say.

        Penalties that are not known are chosen where they are needed, and put into the list.
        """
        self.frame = trial.frame
        for space, sums in trial.base.items():
            sums.add(trial.held[space])
            self.sums[space] = sums
        self.chosen = self.evidence.best()
        weight, bias, self.penalty = self._solved(penalties)
        self.power, self.temperature = self.evidence.sureness(self.chosen) or (None, 1.0)
        index = self.statistics.labels
        self.replace("weight", weight.new_zeros(rows, weight.shape[1]).index_copy_(0, index, weight / self.temperature))
        self.replace("bias", bias.new_full((rows,), MASKED).index_copy_(0, index, bias / self.temperature))
        self.abandon()
        self.second_look.forget()

    def _solved(self, penalties: list[float | None]) -> Solved:
        """The classifier that is chosen, from all statistics."""
        first = self._trials.first_alone

        def alone(i: int) -> Solved:
            candidate = self.candidates[i]
            solved = candidate.solve(self.sums[space_of(candidate)], penalties[i - first])  # type: ignore[arg-type]
            penalties[i - first] = solved.penalty
            return solved

        if not self.candidates[self.chosen].parts:
            return alone(self.chosen)
        shares = self.candidates[self.chosen].shares(self.statistics.counts)
        parts = [(alone(i), share / self.evidence.temperature(i)) for i, share in shares.items()]
        expanded, *own = [solved.weight * c for solved, c in parts]
        weight = torch.cat([expanded, torch.stack(own).sum(0)], dim=1)
        return Solved(weight, torch.stack([solved.bias * c for solved, c in parts]).sum(0), parts[0][0].penalty)

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(n, rows)`` of features ``(n, d)``; a row without statistics has -1000."""
        h = inputs(features, self.candidates[self.chosen], self.frame, self.expand)
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(h, self.weight.to(h.dtype), self.bias.to(h.dtype))

    def sure(self, scores: Tensor, masked: Tensor) -> Tensor:
        """Logits, whose softmax are the probabilities.

        Args:
            scores: Of :meth:`forward`, ``(n, k)`` in any order.
            masked: ``(n or 1, k)``, which of them belong to classes that do not compete.
        """
        return scores if self.power is None else sure(scores, self.power, masked | (scores == MASKED))

    def plain(self) -> tuple[nn.Sequential | None, Tensor, Tensor]:
        """The function of this head as layers of torch.

        Returns:
            The expansion ``(n, d)`` to ``(n, D)``, None where there is none; weight ``(rows, d or D)`` and bias
            ``(rows,)`` of the linear layer after it. The frame is part of whichever comes first. Of a mixture the
            expansion ends in ``2 d`` units more, ``relu(x)`` and ``relu(-x)``, whose difference is ``x``.
        """
        A, c = (None, None) if self.frame is None else (self.frame.matrix(), self.frame.bias)
        candidate = self.candidates[self.chosen]
        if self.expand is not None and candidate.units:
            expansion = self.expand.plain(A, c, candidate.units, passing=bool(candidate.parts))
            own = self.weight[:, candidate.units :]  # of the features themselves, where a mixture takes them
            return expansion, torch.cat([self.weight, -own], dim=1), self.bias
        if A is None or c is None:
            return None, self.weight, self.bias
        return None, self.weight @ A, self.bias + self.weight @ c
