"""Trying what features make of a head: candidates solved without the images held out, and judged by them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avalanche_sdlora.heads.candidates import Candidate
from avalanche_sdlora.heads.drift import DriftMoments, Frame
from avalanche_sdlora.heads.evidence import Evidence, Verdict, judge, tells_which
from avalanche_sdlora.heads.expansion import RandomExpansion
from avalanche_sdlora.heads.statistics import FeatureStatistics

#: The statistics of the features themselves, by the name "features", and of their random expansion, "expanded".
Sums = Mapping[str, FeatureStatistics]


class Images(NamedTuple):
    """The images of an experience, as one state of the model gives their features.

    Attributes:
        x: Features ``(n, d)``.
        y: The rows ``(n,)`` of their classes.
        held: ``(n,)``, which of them were held out from training.
        competing: The rows that those are classified among; None: all that have samples.
    """

    x: Tensor
    y: Tensor
    held: Tensor
    competing: Tensor | None

    @property
    def tells(self) -> Tensor:
        """``(n,)``, see :func:`avalanche_sdlora.heads.evidence.tells_which`."""
        return tells_which(self.y, self.held)


class Trial(NamedTuple):
    """What the features of an experience make of a head.

    Attributes:
        frame: The coordinates of the statistics; None where features are not followed.
        base: Statistics of all that counts but the images held out.
        held: Statistics of those.
        penalties: Of the candidates from ``base``, without mixtures; empty where there are no images held out.
        verdict: How the candidates did on those.
    """

    frame: Frame | None
    base: dict[str, FeatureStatistics]
    held: dict[str, FeatureStatistics]
    penalties: list[float | None]
    verdict: Verdict | None


def space_of(candidate: Candidate) -> str:
    """The statistics that a candidate is made from."""
    return "expanded" if candidate.units else "features"


def project(x: Tensor, frame: Frame | None, expand: RandomExpansion | None, units: int | None = None) -> Tensor:
    """Features ``(n, d)`` as statistics see them, ``(n, D)``.

    Args:
        x: Features of the present model.
        frame: Brings them to the coordinates of the statistics.
        expand: The expansion after it; None: no expansion.
        units: The first so many units alone; None: all.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x if frame is None else frame(x)
        return x if expand is None else expand(x, units)


def followed(frame: Frame | None, before: Tensor, after: Tensor) -> Frame | None:
    """The frame once features have moved from ``before (n, d)`` to ``after (n, d)``; as it was for less than two."""
    if frame is None or len(before) < 2:
        return frame
    drifts = []
    for x, z in zip(before.chunk(frame.parts, 1), after.chunk(frame.parts, 1)):
        moments = DriftMoments(x.shape[1]).to(x.device)
        moments.update(x, z)
        drifts.append(moments.fit())
    frame = copy.deepcopy(frame)
    frame.follow(*drifts)
    return frame


def fifth(y: Tensor) -> Tensor:
    """Every fifth image of each class, ``(n,)``, by the classes ``y (n,)``."""
    _, own, sizes = y.unique(return_inverse=True, return_counts=True)
    place = own.argsort(stable=True).argsort()  # classes one after another
    return (place - (sizes.cumsum(0) - sizes)[own]) % 5 == 4


def inputs(x: Tensor, candidate: Candidate, frame: Frame | None, expand: RandomExpansion | None) -> Tensor:
    """Features ``(n, d)`` of the present model as a candidate's linear classifier takes them, ``(n, D)``."""
    x = project(x, frame, None)
    parts = [project(x, None, expand, candidate.units)] if candidate.units else []
    return torch.cat([*parts, x], dim=1) if candidate.parts or not parts else parts[0]


class Trials:
    """Tries candidates.

    Args:
        candidates: What may be chosen, mixtures first.
        expand: The random expansion, where one of them wants it.
        evidence: On all of them so far: the temperatures of what is mixed.

    Attributes:
        first_alone: Index of the first candidate that is solved by itself, after the mixtures.
    """

    def __init__(self, candidates: Sequence[Candidate], expand: RandomExpansion | None, evidence: Evidence) -> None:
        self.mixtures = [c for c in candidates if c.parts]
        self.alone = [c for c in candidates if not c.parts]
        self.first_alone = len(self.mixtures)
        self.expand = expand
        self.evidence = evidence

    def gathered(self, x: Tensor, y: Tensor, frame: Frame | None, like: Sums) -> dict[str, FeatureStatistics]:
        """Statistics, of the kinds of ``like``, of features ``x (n, d)`` of the rows ``y (n,)``."""
        sums = {space: FeatureStatistics(len(s.second)).to(x.device) for space, s in like.items()}
        for part, rows in zip(x.split(1024), y.split(1024)):  # the expansion of all would be large
            for space, statistics in sums.items():
                statistics.update(project(part, frame, self.expand if space == "expanded" else None), rows)
        return sums

    def attempt(self, images: Images, base: Sums, frame: Frame | None, penalties: Sequence[float | None] = ()) -> Trial:
        """Solves and judges the candidates.

        Args:
            images: Of the experience.
            base: Statistics of what counts beside them.
            frame: That of the features.
            penalties: Of the candidates that are solved, where they are known; otherwise each chooses its own.
        """
        x, y, held, _ = images
        base = {space: sums.copy() for space, sums in base.items()}
        for space, sums in self.gathered(x[~held], y[~held], frame, base).items():
            base[space].add(sums)
        kept_out = self.gathered(x[held], y[held], frame, base)
        judged = torch.isin(y, next(iter(base.values())).labels) & held  # a class may have no other images
        if not judged.any():
            return Trial(frame, base, kept_out, [], None)
        known = penalties or [None] * len(self.alone)
        scores, targets, chosen = self._scores(base, known, images, judged, frame)
        verdict = self._judge(scores, targets, images.tells[judged], self._counts(base, y[held]))
        return Trial(frame, base, kept_out, chosen, verdict)

    def ahead(self, before: Trial, images: Images) -> Verdict | None:
        """How right the candidates are of images of which nothing has been learned.

        For the features of before an experience, all of its images are such, and its classes can be learned without a
        part of them. Older classes are then as old as they will be. So more images say how sure to be than are held out
        from training.

        Args:
            before: What the features before the experience made.
            images: With these features.

        Returns:
            On the :func:`fifth` of the images; None where there is none.
        """
        x, y, *_ = images
        judged = fifth(y)
        if not judged.any():
            return None
        sums = {space: s.copy() for space, s in before.base.items()}
        without = self.gathered(x[judged], y[judged], before.frame, sums)
        for space, s in sums.items():
            s.add(before.held[space])
            s.add(without[space], -1)
        unknown = images._replace(held=judged)
        scores, targets, _ = self._scores(sums, before.penalties, unknown, judged, before.frame)
        return self._judge(scores, targets, unknown.tells[judged], self._counts(sums, y[judged]))

    def of_old_classes(self, base: Sums, before: Trial, old: Tensor, images: Images) -> Verdict | None:
        """How right the candidates are of classes whose statistics are older than the features.

        The classes of an experience are recognised by statistics of the features as they are; all older ones by
        statistics of features that have moved since, brought back by a map that was estimated on other classes, beside
        newer classes whose statistics have come back by that map. So half of the present classes are put in the place
        of old ones: their statistics are of the features before the experience, those of the other half of the
        features after it, brought back by the map that this other half gives; then the halves change places.

        Args:
            base: Statistics of what counts beside the images of the experience.
            before: What the features before the experience made.
            old: Those features ``(n, d)``.
            images: With the features after it.

        Returns:
            On the images of the verdict of ``before``, in their order; None where there is only one class, or none has
            images held out.
        """
        x, y, held, _ = images
        known = torch.isin(y, next(iter(before.base.values())).labels)
        found: list[tuple[list[Tensor], Tensor]] = []
        places: list[Tensor] = []
        classes = y.unique()
        for half in (classes[::2], classes[1::2]):
            own = torch.isin(y, half)
            judged = own & held & known
            if judged.any() and not own.all():
                frame = followed(before.frame, old[~own], x[~own])
                sums = {space: s.copy() for space, s in base.items()}
                for features, seen, coordinates in ((old, own & ~held, before.frame), (x, ~own & ~held, frame)):
                    for space, s in self.gathered(features[seen], y[seen], coordinates, sums).items():
                        sums[space].add(s)
                found.append(self._scores(sums, before.penalties, images, judged, frame)[:2])
                places.append(judged.nonzero().flatten())
        if not found:
            return None
        order = torch.cat(places).argsort()
        scores = [torch.cat(parts)[order] for parts in zip(*(scores for scores, _ in found))]
        targets = torch.cat([targets for _, targets in found])[order]
        return self._judge(scores, targets, images.tells[torch.cat(places)[order]], self._counts(sums, y[held]))

    def _counts(self, sums: Sums, held: Tensor) -> Tensor:
        """How many samples each class counts as, ``(classes,)``: also those of the rows ``held (n,)``, not in ``sums``.

        Else all images that judge would be of the classes of fewest.
        """
        first = next(iter(sums.values()))
        return first.counts + (held[:, None] == first.labels).sum(0)

    def _judge(self, scores: Sequence[Tensor], targets: Tensor, tells: Tensor, counts: Tensor) -> Verdict:
        """The verdict on all candidates, mixtures first, from the scores ``(n, k)`` of those that are solved."""
        verdict, first = judge(scores, targets, tells), self.first_alone
        if not first:
            return verdict

        def cooled(i: int) -> Tensor:
            return scores[i - first] / self.evidence.temperature(i, verdict.of(i - first))

        shares = [c.shares(counts) for c in self.mixtures]
        mixed = [torch.stack([s * cooled(i) for i, s in of.items()]).sum(0) for of in shares]
        return judge(mixed, targets, tells).before(verdict)

    def _scores(
        self,
        sums: Sums,
        penalties: Sequence[float | None],
        images: Images,
        judged: Tensor,
        frame: Frame | None,
    ) -> tuple[list[Tensor], Tensor, list[float | None]]:
        """What the candidates that are no mixtures, without the images held out, make of those that are ``judged``.

        Returns:
            Scores ``(n, k)`` of each, for the classes that compete; the index ``(n,)`` of the true one; the penalties.
        """
        labels, counts = next(iter(sums.values())).labels, self._counts(sums, images.y[images.held])
        compete = labels if images.competing is None else labels[torch.isin(labels, images.competing)]
        x, y = images.x[judged], images.y[judged]
        columns = (compete[:, None] == labels).to(torch.uint8).argmax(1)
        scores, chosen = [], []
        for candidate, known in zip(self.alone, penalties):
            h = inputs(x, candidate, frame, self.expand)
            found, penalty = candidate.scores(h, sums[space_of(candidate)], known, counts)
            scores.append(found[:, columns])
            chosen.append(penalty)
        return scores, (y[:, None] == compete).to(torch.uint8).argmax(1), chosen
