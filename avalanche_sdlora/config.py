"""What an SD-LoRA run learns: one frozen dataclass and the two published presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from avalanche_sdlora.ranks import RankSchedule


@dataclass(frozen=True)
class SDLoRAConfig:
    """Settings of SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198).

    The defaults are this library's own choice: a boundary that changes nothing already learned, one magnitude per
    projection, and a head solved in closed form. :meth:`paper` and :meth:`reference` reproduce the published variants.

    Args:
        rank: Rank ``r`` of each new direction, from 1 to the smaller side of the adapted layers; or a
            :class:`RankSchedule`, by task (rank reduction as published) and by depth.
        targets: Which layers are adapted. ``"attention.qv"`` (query and value of every attention block; any
            letters of ``q``, ``k``, ``v``), or one or several shell-style patterns of ``nn.Linear`` names such as
            ``"blocks.*.mlp.fc1"``. A pattern may end in ``:qv`` to adapt those thirds of a fused projection. ``()``
            adapts nothing: the head learns alone, or with parameters of the backbone that are unfrozen by hand.
        norm: The divisor of a learned direction when it is frozen. ``"product"``: ``||B A||_F``, unit
            Frobenius norm (the paper). ``"factors"``: ``||B||_F ||A||_F`` (the authors' code).
        boundary: The change of the function when a direction is frozen. ``"continuous"``: the scale that was
            learned stays with the direction, so the function does not change and its magnitude continues from 1.
            ``"reset"``: the direction is only normalised, so the function jumps (as published).
        magnitudes: ``"per_projection"``: each adapted projection has its own ``alpha_k``. ``"shared"``: one
            ``alpha_k`` per task for all projections (the paper).
        magnitude_init: Initial ``alpha`` of a new direction.
        reset_magnitudes: Whether every ``alpha`` returns to ``magnitude_init`` when a new task begins. With the
            continuous boundary that would change the function, so the two together are refused.
        directions: Which tasks learn a direction. ``"every"``: the method. ``"first"``: only the first task, later
            ones train its magnitude. ``"single"``: all tasks train one direction and its magnitude on and on
            (sequential LoRA with a magnitude). The last two are ablations of the paper; their one direction has the
            rank that a schedule gives to the first task.
        rescale_past: Whether the magnitudes of frozen directions go on training. ``False`` is the paper's ablation.
        energy: After training on an experience, truncate each projection's new direction to the smallest rank
            that keeps this share of its squared singular values, above 0 and at most 1. None: truncate never.
        rank_budget: The frozen directions of a projection never exceed this total rank: when they would, they are
            recompressed to the best approximation of their sum. None: no bound.
        kd_tolerance: Knowledge-distillation pruning: the new direction of a projection, at unit norm, is replaced
            by the frozen ones when their best combination is no further from it than this (the paper: 9e-4;
            directions that share nothing have distance 1). None: prune never.
        kd_fold: The numbers added to the coefficients of the frozen directions then. ``"contribution"``: those that
            reproduce the learned update, so that the function changes by no more than the residual.
            ``"coefficients"``: the bare coefficients of the combination (as the paper prints it).
        head: What predicts. Heads in closed form are solved from statistics of the features, gathered in one pass after
            each experience, without samples: ``"random_ridge"`` (ridge regression after a random expansion, RanPAC),
            ``"lda"``, ``"ridge"``, ``"ncm"`` (nearest class mean), or ``"auto"``, the mixture of the first two, or
            one of them that is clearly better on the images held out; see
            :class:`avalanche_sdlora.heads.closed_form.ClosedFormHead`. ``"linear"``: the head that is trained, as
            published.
        drift: ``"linear"``: a head in closed form follows the features as they move, by a map estimated on the present
            experience's images, for one more pass before it. ``"none"``: it does as if they stayed.
        expansion: Units of ``"random_ridge"``; memory grows with its square, the time to solve with its cube.
            None: 2000 or 500, as the images held out decide.
        readout: What a head in closed form reads. ``"layers"``: beside the features class token and mean patch token of
            blocks at half, three quarters and the whole depth of a timm vision transformer
            (:func:`avalanche_sdlora.heads.readout.read_layers`). ``"features"``: the features alone. ``"auto"``: layers
            where the backbone has them.
        held_out: The share of each class's training images, above 0 and at most 0.5, that a head in closed form is
            judged by before it learns them, too: they choose its kind and its temperature, and where what an
            experience taught the features is clearly worse than what they were (boundary ``"continuous"``), the
            model goes back to them. The adapters are trained on the others. Then all images of the second task judge
            the first (:func:`avalanche_sdlora.heads.second_look.helped`). None: no image is held out, the first kind of
            head is taken, and every task is kept.
        path: How far the adapted weights may travel while the first task is learned, in units of the frozen weights'
            norm: the sum of the sizes of all steps, see :class:`avalanche_sdlora.training.path.PathLimit`. The
            optimizer's steps are shortened to keep to it, so that no learning rate diverges. A task of ``n < 500``
            training images goes ``(n / 500)^2`` of it. None: the optimizer's steps as they are, as published.
        later_path: How far for each task after the first, when there is something learned to disturb.
        first_epochs: The least number of epochs over the first experience, where the strategy has fewer: until
            something has been learned, nothing can be forgotten (first-session adaptation: Panos et al., ICCV 2023,
            arXiv 2303.13199, who stop there). ``"auto"``: 6, or more where an epoch has so few steps that the ``path``
            would be gone in fewer than it needs, see :func:`avalanche_sdlora.training.path.steps_of`. The parts of an
            online stream are never gone over again.
        rotations: Whether the first task also learns to tell by how many quarter turns an image has been rotated, in a
            second pass over every batch, see :class:`avalanche_sdlora.training.rotations.Rotations`. Only square images
            are, and none of an online stream.
        use_task_labels: Whether the task labels of a stream that has them select the classes that compete
            (task-incremental learning). With ``False`` the labels are ignored.
        multi_head: Whether a class label under two task labels means two classes, as where class labels restart in
            every task; each then has its own row of the head. ``"auto"``: as the stream says, or as its labels show
            (:func:`avalanche_sdlora.stream.labels_restart`).
        new_task: When a call of ``strategy.train`` begins a new task, with a direction of its own. ``"auto"``: when
            another experience comes, which brings new classes or a new domain; the experience just learned, and the
            parts into which an online stream cuts one, go on with the present direction
            (:class:`avalanche_sdlora.stream.Task`). ``"every"``: with every experience. ``"manual"``: the first time,
            and after :meth:`avalanche_sdlora.SDLoRAPlugin.begin_task`.

    Raises:
        ValueError: A setting is outside its range; the message names it.
    """

    rank: int | RankSchedule = 10
    targets: str | tuple[str, ...] = "attention.qv"
    norm: Literal["product", "factors"] = "product"
    boundary: Literal["continuous", "reset"] = "continuous"
    magnitudes: Literal["per_projection", "shared"] = "per_projection"
    magnitude_init: float = 1.0
    reset_magnitudes: bool = False
    use_task_labels: bool = True
    multi_head: bool | Literal["auto"] = "auto"
    new_task: Literal["auto", "every", "manual"] = "auto"
    directions: Literal["every", "first", "single"] = "every"
    rescale_past: bool = True
    energy: float | None = None
    rank_budget: int | None = None
    kd_tolerance: float | None = None
    kd_fold: Literal["contribution", "coefficients"] = "contribution"
    head: Literal["auto", "random_ridge", "lda", "ridge", "ncm", "linear"] = "auto"
    drift: Literal["none", "linear"] = "linear"
    expansion: int | None = None
    readout: Literal["auto", "features", "layers"] = "auto"
    held_out: float | None = 0.1
    path: float | None = 0.5
    later_path: float | None = 0.015
    first_epochs: int | Literal["auto"] = "auto"
    rotations: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.targets, list):
            object.__setattr__(self, "targets", tuple(self.targets))
        if not isinstance(self.rank, RankSchedule) and (type(self.rank) is not int or self.rank < 1):
            raise ValueError(f"rank={self.rank!r}: expected an integer of at least 1, or a RankSchedule")
        if self.targets != () and not all(isinstance(p, str) and p for p in self.target_patterns):
            raise ValueError(f"targets={self.targets!r}: expected a non-empty pattern, or several in a tuple")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, allowed))}")
        if not math.isfinite(self.magnitude_init) or self.magnitude_init == 0:
            # With alpha = 0 and B = 0 neither would ever receive a gradient.
            raise ValueError(f"magnitude_init={self.magnitude_init!r}: expected a finite number other than 0")
        if self.boundary == "continuous" and self.reset_magnitudes:
            raise ValueError(
                "reset_magnitudes=True with boundary='continuous': resetting changes the function that a "
                "continuous boundary keeps; use boundary='reset', or reset_magnitudes=False"
            )
        if self.multi_head is True and not self.use_task_labels:
            raise ValueError("multi_head=True with use_task_labels=False: task labels choose among the heads")
        if self.directions == "first" and not self.rescale_past:
            raise ValueError("directions='first' with rescale_past=False: later tasks would train the head only")
        if self.expansion is not None and (type(self.expansion) is not int or self.expansion < 1):
            raise ValueError(f"expansion={self.expansion!r}: expected an integer of at least 1, or None")
        if self.held_out is not None and not 0 < self.held_out <= 0.5:
            raise ValueError(f"held_out={self.held_out!r}: expected a share above 0 and at most 0.5, or None")
        for name in ("path", "later_path"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a number above 0, or None")
        if self.first_epochs != "auto" and (type(self.first_epochs) is not int or self.first_epochs < 1):
            raise ValueError(f"first_epochs={self.first_epochs!r}: expected an integer of at least 1, or 'auto'")
        self._check_reduction()

    def _check_reduction(self) -> None:
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ValueError(f"energy={self.energy!r}: expected a share above 0 and at most 1, or None")
        if self.kd_tolerance is not None and not 0 <= self.kd_tolerance < math.inf:
            raise ValueError(f"kd_tolerance={self.kd_tolerance!r}: expected a number of at least 0, or None")
        largest = self.schedule.largest()
        if self.rank_budget is not None and (type(self.rank_budget) is not int or self.rank_budget <= largest):
            raise ValueError(
                f"rank_budget={self.rank_budget!r}: expected an integer above the largest rank of one direction, "
                f"{largest}, or None"
            )
        reduces = self.energy is not None or self.rank_budget is not None or self.kd_tolerance is not None
        if self.directions == "single" and reduces:
            raise ValueError(
                "directions='single' trains one direction on and on: energy, rank_budget and kd_tolerance must be None"
            )

    @property
    def schedule(self) -> RankSchedule:
        """``rank`` as a schedule."""
        return self.rank if isinstance(self.rank, RankSchedule) else RankSchedule.constant(self.rank)

    def to_dict(self) -> dict[str, Any]:
        """The settings as numbers, texts, lists and dicts of JSON; :meth:`from_dict` reads them again."""
        settings = dataclasses.asdict(self)
        if isinstance(self.rank, RankSchedule):
            settings["rank"] = {"tasks": [list(pair) for pair in self.rank.tasks], "depth": list(self.rank.depth)}
        if isinstance(self.targets, tuple):
            settings["targets"] = list(self.targets)
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SDLoRAConfig:
        """The config that :meth:`to_dict` wrote; a setting that is missing has its default.

        Raises:
            ValueError: A setting is unknown, or outside its range.
        """
        settings = dict(settings)
        unknown = settings.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}: SDLoRAConfig of this version does not have them")
        if isinstance(settings.get("rank"), Mapping):
            schedule = settings["rank"]
            settings["rank"] = RankSchedule(tuple(map(tuple, schedule["tasks"])), tuple(schedule["depth"]))
        return cls(**settings)

    @property
    def target_patterns(self) -> tuple[str, ...]:
        """``targets`` as a tuple."""
        return (self.targets,) if isinstance(self.targets, str) else self.targets

    @classmethod
    def paper(cls, **overrides: Any) -> SDLoRAConfig:
        """The equations and Section 4 of the paper: ``||BA||_F``, alpha starts and restarts at 1, shared."""
        settings: dict[str, Any] = {
            "norm": "product",
            "boundary": "reset",
            "magnitudes": "shared",
            "magnitude_init": 1.0,
            "reset_magnitudes": True,
            "kd_fold": "coefficients",
            **PUBLISHED_TRAINING,
        }
        return cls(**{**settings, **overrides})

    @classmethod
    def reference(cls, **overrides: Any) -> SDLoRAConfig:
        """The authors' code: ``||B||_F ||A||_F``, alpha starts and restarts at 0.8, shared."""
        return cls.paper(**{"norm": "factors", "magnitude_init": 0.8, "kd_fold": "contribution", **overrides})


#: Settings of everything that trains and predicts as published: a head that is trained, and the optimizer's own steps.
PUBLISHED_TRAINING: dict[str, Any] = {
    "head": "linear",
    "path": None,
    "later_path": None,
    "first_epochs": 1,
    "rotations": False,
}

#: Settings that RanPAC with first-session adaptation is made of (McDonnell et al., NeurIPS 2023, arXiv 2307.02251).
RANPAC: dict[str, Any] = {"directions": "first", "head": "random_ridge", "drift": "none", "readout": "features"}

_CHOICES = {
    "norm": ("product", "factors"),
    "boundary": ("continuous", "reset"),
    "magnitudes": ("per_projection", "shared"),
    "directions": ("every", "first", "single"),
    "multi_head": ("auto", True, False),
    "new_task": ("auto", "every", "manual"),
    "kd_fold": ("contribution", "coefficients"),
    "head": ("auto", "random_ridge", "lda", "ridge", "ncm", "linear"),
    "drift": ("none", "linear"),
    "readout": ("auto", "features", "layers"),
}
