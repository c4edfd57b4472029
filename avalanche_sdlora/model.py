"""A frozen backbone with SD-LoRA adapters and a head that grows: the model that learns a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from avalanche.models import BaseModel, MultiTaskModule
from torch import Tensor, nn

from avalanche_sdlora.adapter.attention import put_layer
from avalanche_sdlora.adapter.calls import idle_in_evaluation, run
from avalanche_sdlora.adapter.functional import merged_weight
from avalanche_sdlora.adapter.linear import SDLoRALinear, projections_of
from avalanche_sdlora.adapter.projection import Magnitudes, Projection
from avalanche_sdlora.adapter.reduction import Reduction, reduce_directions
from avalanche_sdlora.adapter.targets import find_targets
from avalanche_sdlora.adapter.undo import unchanged_on_error
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.growing import learned_dtype
from avalanche_sdlora.heads.classifier import remove_classifier
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.growing_head import GrowingHead
from avalanche_sdlora.stream import classes_by_task

logger = logging.getLogger("avalanche_sdlora")


class SDLoRAModel(MultiTaskModule, BaseModel):
    """Class logits from a frozen backbone adapted by SD-LoRA (Wu et al., arXiv 2501.13198).

    The backbone is changed in place: its classifier is removed, its parameters are frozen, and the target layers are
    replaced. Everything the method learns is in the state dict; a strict load into a fresh model of the same
    backbone and config restores any stage of a stream.

    Args:
        backbone: A timm model, or any module whose classifier can be found (see
            :func:`avalanche_sdlora.heads.classifier.remove_classifier`).
        config: What is adapted, and how.

    Raises:
        TypeError: The backbone is an :class:`SDLoRAModel` itself, or what ``torch.compile`` made of a module.
        ValueError: No features, no matching layer, one that is more than its weight (an own ``forward``, hooks), a rank
            that a layer cannot hold, or a backbone that is adapted already. It is left as it was, classifier included.
    """

    experiences: Tensor

    def __init__(self, backbone: nn.Module, config: SDLoRAConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else SDLoRAConfig()
        #: Precision of the backbone's forward pass, e.g. ``torch.bfloat16``; weights and logits stay float32.
        self.autocast: torch.dtype | None = None
        _check_backbone(backbone)
        with unchanged_on_error(backbone):
            self._adapt(backbone)

    def _adapt(self, backbone: nn.Module) -> None:
        features = remove_classifier(backbone)  # first, so that no pattern can select the classifier
        targets = find_targets(backbone, self.config.target_patterns, self.config.schedule)
        self._frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
        self.backbone = backbone.requires_grad_(False)
        own = next(p for p in backbone.parameters() if p.is_floating_point())
        placed: dict[str, Any] = {"device": own.device, "dtype": learned_dtype(own.dtype)}
        shared = self.config.magnitudes == "shared"
        self.magnitudes = Magnitudes(1 if shared else sum(len(t.rows) for t in targets)).to(**placed)
        self.head = GrowingHead(features).to(**placed)
        #: The head that predicts once an experience has been learned; None where that is the linear one.
        self.closed_form: ClosedFormHead | None = None
        if self.config.head != "linear":
            kind, drift, expansion = self.config.head, self.config.drift, self.config.expansion
            self.closed_form = ClosedFormHead(features, kind, drift, expansion).to(**placed)
        self.register_buffer("experiences", torch.tensor(0))  # begun so far
        #: How many states have been loaded: each may have put other tensors in place of the parameters.
        self.loads = 0
        #: What the reduction of rank did to each projection after the last experience.
        self.reductions: list[Reduction] = []
        self._trained = 0
        self._adapters: dict[str, SDLoRALinear] = {}
        self._all_took_part = False
        column = 0
        for target in targets:
            adapter = SDLoRALinear(target.layer(backbone), target.rows)
            columns = range(column, column + len(target.rows))
            adapter.connect(self.magnitudes, [0 if shared else c for c in columns])
            column += len(target.rows)
            for name in (target.name, *target.aliases):
                put_layer(backbone, name, adapter)
            self._adapters[target.name] = adapter

    def unload(self) -> nn.Module:
        """Takes the adapters out again, and with them everything that was learned.

        Returns:
            The backbone: plain layers with their own weights, and those parameters trainable that were so before; the
            classifier is not put back. It can be adapted anew. This model cannot be used any more; to keep
            what was learned, :func:`avalanche_sdlora.merge` or :func:`avalanche_sdlora.save_adapters` comes first.
        """
        backbone = self.backbone
        for name, module in list(backbone.named_modules(remove_duplicate=False)):
            if isinstance(module, SDLoRALinear):
                put_layer(backbone, name, module.base)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name not in self._frozen)
        self.backbone, self._adapters = _TakenOut(), {}
        return backbone

    # -- the stream ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_experience(
        self, classes: Mapping[int, Iterable[int]], goes_on: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Freezes and normalises the direction learned before, opens a new one, and grows the head.

        Args:
            classes: Class labels of the experience by task label (one label, 0, for streams without them).
            goes_on: The experience belongs to the task that has been learned last: its direction stays open, unless the
                reduction of rank has taken it away.

        Returns:
            ``(old, new)`` for each parameter that continues under a new tensor, so that an optimizer can follow.
        """
        if not goes_on:
            self.experiences += 1
        task = int(self.experiences)  # from 1
        stays = not self._adapters or (task > 1 and self.config.directions == "single")
        stays = stays or (goes_on and (self.config.directions != "every" or self._is_open()))
        replaced = [] if stays else self._next_direction(task)
        replaced += self.head.grow(classes)
        if self.closed_form is not None:
            self.closed_form.learning = True
        self._trained = self._count_trainable()
        return replaced

    def _is_open(self) -> bool:
        """Whether every projection has a direction that trains."""
        return all(len(projection.A) for projection, _ in self._projections().values())

    def _next_direction(self, task: int) -> list[tuple[Tensor, Tensor]]:
        jumps = self.config.boundary == "reset" and len(self.magnitudes) > 0
        before = self._weights() if jumps else []
        opens = task == 1 or self.config.directions == "every"
        freezes = any(len(p.A) for p, _ in self._projections().values())
        if freezes:
            last = self.magnitudes.values()[-1]
            for projection, column in self._projections().values():
                projection.freeze(last[column], self.config)
        new = len(self.magnitudes)
        replaced = self.magnitudes.begin(self.config, freezes, opens)
        if opens:
            for i, adapter in enumerate(self._adapters.values()):
                for projection in projections_of(adapter):
                    projection.begin(self.config.schedule.rank(task, i, len(self._adapters)), new)
        if jumps:
            moved = [torch.linalg.norm(a - b) / torch.linalg.norm(b) for a, b in zip(self._weights(), before)]
            logger.info(
                "boundary before task %d: the adapted weights jump by %.2e on average, %.2e at most (relative)",
                task,
                torch.stack(moved).mean(),
                torch.stack(moved).max(),
            )
        return replaced

    @torch.no_grad()
    def end_experience(self) -> bool:
        """Reduces the rank of what was learned, as the config says, and records it in :attr:`reductions`.

        Returns:
            Whether any parameter or buffer has changed.
        """
        self._trained = self._count_trainable()  # a run resumed inside the experience did not begin it
        before = [*self.parameters(), *self.buffers()]
        reducible = self.config.directions != "single"
        self.reductions = reduce_directions(self._projections(), self.magnitudes, self.config) if reducible else []
        return any(a is not b for a, b in zip(before, [*self.parameters(), *self.buffers()]))

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        """Exactly the parameters that train now, by role: the new direction, the magnitudes, the head.

        A parameter that does not require a gradient does not train, here as everywhere in torch; and what has been
        unfrozen of the backbone trains with the directions.
        """
        groups = {
            "directions": list(self.backbone.parameters()),
            "magnitudes": [self.magnitudes.alpha],
            "head": [self.head.weight, self.head.bias],
        }
        return {name: [p for p in group if p.numel() and p.requires_grad] for name, group in groups.items()}

    def magnitude_report(self) -> list[float]:
        """``alpha_k`` of every direction, oldest first, averaged over the projections."""
        return [float(a) for a in self.magnitudes.values().detach().double().mean(1)]

    def parameter_report(self) -> dict[str, int]:
        """Numbers of parameters.

        Returns:
            ``trained``: trained in the present or last experience, before any reduction. ``new``: what the
            experience's direction, its magnitudes included, adds to what is kept. ``kept``: all low-rank factors,
            magnitudes and the head, as they are now, and what has been unfrozen of the backbone. ``rank``: the total
            rank of all projections.
        """
        projections = [p for p, _ in self._projections().values()]
        factors = {id(t) for projection in projections for t in projection.parameters()}
        unfrozen = sum(p.numel() for p in self.backbone.parameters() if p.requires_grad and id(p) not in factors)
        current = sum(p.A.numel() + p.B.numel() for p in projections)
        bank = sum(p.bank_A.numel() + p.bank_B.numel() for p in projections)
        magnitudes = self.magnitudes.values()
        return {
            "trained": self._trained or self._count_trainable(),
            "new": current + (magnitudes.shape[1] if current else 0),
            "kept": unfrozen + current + bank + magnitudes.numel() + self.head.weight.numel() + self.head.bias.numel(),
            "rank": sum(len(p.owner) for p in projections),
        }

    def _count_trainable(self) -> int:
        return sum(p.numel() for group in self.trainable_groups().values() for p in group)

    def _projections(self) -> dict[str, tuple[Projection, int]]:
        """Every projection, named by layer and rows, with its column of the magnitudes."""
        return {
            f"{name}[{projection.start}:{projection.stop}]": (projection, column)
            for name, adapter in self._adapters.items()
            for projection, column in zip(projections_of(adapter), adapter.columns)
        }

    def _weights(self) -> list[Tensor]:
        return [merged_weight(a.base.weight, a.updates()) for a in self._adapters.values()]

    # -- the function ----------------------------------------------------------------------------------------------

    def features(self, x: Tensor) -> Tensor:
        """Adapted features ``(n, d)``, in the type of the head, of the inputs ``x (n, ...)``.

        Floating inputs are cast to the type of the backbone where no autocast is on. Several threads may call this in
        evaluation mode at once.

        Raises:
            RuntimeError: An adapter took no part in the forward pass, so adapting it would change nothing (in training
                mode only if it takes no part in evaluation either); gradients are recorded around it but not
                where it is; or the features have another shape.
        """
        features, idle = run(self.backbone, x, self._adapters, self.autocast)
        if not self.backbone.training:
            self._all_took_part = self._all_took_part or not idle
        elif idle and not self._all_took_part:
            # Layers may be skipped at random in training; what takes part in evaluation is not to be complained about.
            idle = idle_in_evaluation(self.backbone, x[:1], self._adapters, self.autocast)
            self._all_took_part = not idle
        else:
            idle = []
        if idle:
            raise RuntimeError(
                f"{len(idle)} of {len(self._adapters)} adapted layers took no part in the forward pass, the first "
                f"being {idle[0]!r}: the model neither calls them nor reads their weight. Name other targets"
            )
        if not isinstance(features, Tensor) or features.dim() != 2 or features.shape[1] != self.head.in_features:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise RuntimeError(f"the backbone must give features of shape (n, {self.head.in_features}), got {got}")
        return features.to(self.head.weight.dtype)

    def get_features(self, x: Tensor) -> Tensor:
        """:meth:`features`, by the name under which Avalanche's ``BaseModel`` has it and ``LFLPlugin`` asks for it."""
        return self.features(x)

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Logits ``(n, classes)`` by class label; classes not seen, or not of the sample's task, have -1000.

        They are the linear head's in training, and in evaluation mode those of the head that the config names. A head
        in closed form knows an experience at its end only, so that until then, from when the experience has begun, the
        linear head predicts everything: an evaluation between epochs, as early stopping makes them, sees it learn.
        """
        features = self.features(x)
        labels = task_labels if self.config.use_task_labels else None
        if self.training or self.closed_form is None or not self.closed_form.ready:
            return self.head(features, labels)
        return self.head.lay_out(self.closed_form(features), labels)

    def adaptation(self, experience: Any) -> None:
        """Called by Avalanche before training and evaluation alike; only widens the logits, changing no parameter.

        Growth happens in :meth:`begin_experience`, which the plugin calls when training begins and never else.
        """
        if len(experience.dataset):
            self.head.reserve(1 + max(max(classes) for classes in classes_by_task(experience).values()))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module, and counts in :attr:`loads`."""
        self.loads += 1
        return super().load_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> SDLoRAModel:
        """Normalisation layers with running statistics stay in evaluation mode: the backbone is frozen."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def _check_backbone(backbone: Any) -> None:
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone={backbone!r}: expected an nn.Module")
    if isinstance(backbone, SDLoRAModel):
        raise TypeError(
            "backbone: is an SDLoRAModel already; it goes on learning as it is, and its unload() gives the plain one"
        )
    if isinstance(getattr(backbone, "_orig_mod", None), nn.Module):
        raise TypeError(
            f"backbone: torch.compile has wrapped the {type(backbone._orig_mod).__name__}; expected the module itself, "
            "which is compiled in place: module.compile(), for an SDLoRAModel too"
        )


class _TakenOut(nn.Module):
    """Stands in for a backbone that :meth:`SDLoRAModel.unload` has taken out."""

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Whatever uses a module comes here first.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("unload() has taken the backbone out of this model; adapt it anew: SDLoRAModel(backbone)")
