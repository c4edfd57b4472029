"""A frozen backbone with SD-LoRA adapters and a head that grows: the model that learns a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from avalanche.models import BaseModel, MultiTaskModule
from torch import Tensor, nn

from avalanche_sdlora.adapter.attention import put_layer
from avalanche_sdlora.adapter.calls import CheckedPass
from avalanche_sdlora.adapter.directions import next_direction, projections_by_name
from avalanche_sdlora.adapter.linear import SDLoRALinear
from avalanche_sdlora.adapter.projection import Magnitudes, Projection
from avalanche_sdlora.adapter.reduction import Reduction, reduce_directions
from avalanche_sdlora.adapter.targets import find_targets
from avalanche_sdlora.adapter.undo import unchanged_on_error
from avalanche_sdlora.backbones import create_backbone
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.growing import learned_dtype
from avalanche_sdlora.heads.classifier import leave_plain, remove_classifier
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.growing_head import GrowingHead
from avalanche_sdlora.heads.readout import can_read_layers, parts_of_readout, read_layers
from avalanche_sdlora.past import model_at_task
from avalanche_sdlora.stream import classes_by_task


class SDLoRAModel(MultiTaskModule, BaseModel):
    """Class logits from a frozen backbone adapted by SD-LoRA (Wu et al., arXiv 2501.13198).

    The backbone is changed in place: its classifier is removed, its parameters are frozen, and the target layers are
    replaced. Everything the method learns is in the state dict; a strict load into a fresh model of the same
    backbone and config restores any stage of a stream.

    Args:
        backbone: A timm model or the name of one, which is created with its pre-trained weights
            (:func:`avalanche_sdlora.create_backbone`); or any module that ends in a classifier.
        config: The settings of the method.
        classifier: Name of the backbone's classifier, or several; None: it is found (see
            :func:`avalanche_sdlora.heads.classifier.remove_classifier`).

    Raises:
        TypeError: The backbone is an :class:`SDLoRAModel` itself, or what ``torch.compile`` made of a module.
        ValueError: The backbone has no features or no matching layer, a layer is more than its weight (an own
            ``forward``, hooks) or cannot hold the rank, or the backbone is adapted already. The backbone is left as it
            was, classifier included.
    """

    experiences: Tensor
    rewritten: Tensor

    def __init__(
        self,
        backbone: str | nn.Module,
        config: SDLoRAConfig | None = None,
        *,
        classifier: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.config = config if config is not None else SDLoRAConfig()
        #: Precision of the backbone's forward pass, e.g. ``torch.bfloat16``; weights and logits stay float32.
        self.autocast: torch.dtype | None = None
        #: Name of the backbone's classifier, as it was given.
        self.classifier_name = classifier if classifier is None or isinstance(classifier, str) else list(classifier)
        module = create_backbone(backbone) if isinstance(backbone, str) else backbone
        _check_backbone(module)
        with unchanged_on_error(module):
            self._adapt(module)

    def _adapt(self, backbone: nn.Module) -> None:
        features = remove_classifier(
            backbone, self.classifier_name
        )  # first, so that no pattern can select the classifier
        targets = find_targets(backbone, self.config.target_patterns, self.config.schedule)
        self._frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
        self.backbone = backbone.requires_grad_(False)
        own = next(p for p in backbone.parameters() if p.is_floating_point())
        placed: dict[str, Any] = {"device": own.device, "dtype": learned_dtype(own.dtype)}
        shared = self.config.magnitudes == "shared"
        self.magnitudes = Magnitudes(1 if shared else sum(len(t.rows) for t in targets)).to(**placed)
        self.head = GrowingHead(features).to(**placed)
        #: The head that predicts once an experience has been learned; None where the linear head predicts.
        self.closed_form: ClosedFormHead | None = None
        if self.config.head != "linear":
            kind, drift, expansion = self.config.head, self.config.drift, self.config.expansion
            parts = parts_of_readout(backbone) if self._may_read_layers(backbone) else 1
            head = ClosedFormHead(parts * features, kind, drift, expansion, parts=parts)
            self.closed_form = head.to(**placed)
        self.register_buffer("experiences", torch.tensor(0))  # begun so far
        self.register_buffer("rewritten", torch.tensor(0))  # the last one that changed directions frozen before it
        #: How many states have been loaded: each may have put other tensors in place of the parameters.
        self.loads = 0
        #: One record per projection of the reduction of rank after the last experience.
        self.reductions: list[Reduction] = []
        #: What a head in closed form decided after the last experience, as
        #: :class:`avalanche_sdlora.heads.closed_form.Lesson` names it.
        self.decision: dict[str, Any] = {}
        #: Parameters that a plugin trains beside the model's own; below 0 where it ties some of these to others.
        self.trained_beside = 0
        self._trained = 0
        self._adapters: dict[str, SDLoRALinear] = {}
        self._passes = CheckedPass()
        column = 0
        for target in targets:
            adapter = SDLoRALinear(target.layer(backbone), target.rows)
            columns = range(column, column + len(target.rows))
            adapter.connect(self.magnitudes, [0 if shared else c for c in columns])
            column += len(target.rows)
            for name in (target.name, *target.aliases):
                put_layer(backbone, name, adapter)
            self._adapters[target.name] = adapter

    @property
    def reads_layers(self) -> bool:
        """Whether the head in closed form, if there is one, reads tokens of earlier blocks beside the features."""
        return self.closed_form is not None and self.closed_form.parts > 1

    def _may_read_layers(self, backbone: nn.Module) -> bool:
        able = can_read_layers(backbone)
        if self.config.readout == "layers" and not able:
            raise ValueError(
                f"readout='layers': needs a VisionTransformer of timm with at least four blocks, got a "
                f"{type(backbone).__name__}; readout='auto' reads the features alone there"
            )
        return able and self.config.readout != "features"

    def unload(self) -> nn.Module:
        """Takes the adapters out of the backbone again, and with them everything that was learned.

        Returns:
            The backbone: plain layers with their own weights, and those parameters trainable that were so before; the
            classifier is not put back. It can be adapted anew. This model cannot be used any more; to keep
            what was learned, :func:`avalanche_sdlora.merge` or :func:`avalanche_sdlora.save_adapters` comes first.
        """
        backbone = self.backbone
        leave_plain(backbone)
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

        Raises:
            RuntimeError: The adapters are switched off.
        """
        if any(not adapter.enabled for adapter in self._adapters.values()):
            raise RuntimeError("the adapters are switched off (disabled_adapters), and would not learn")
        if not goes_on:
            self.experiences += 1
        task = int(self.experiences)  # from 1
        self.magnitudes.forget_after(task - 1)
        stays = not self._adapters or (task > 1 and self.config.directions == "single")
        stays = stays or (goes_on and (self.config.directions != "every" or self._is_open()))
        replaced = [] if stays else next_direction(self._adapters, self.magnitudes, self.config, task)
        replaced += self.head.grow(classes, task)
        if self.closed_form is not None:
            self.closed_form.learning = True
        self._trained = self.count_trainable()
        return replaced

    @property
    def trains_backbone(self) -> bool:
        """Whether parameters of the backbone itself have been unfrozen."""
        return any(p.requires_grad for name, p in self.backbone.named_parameters() if ".projections." not in name)

    @torch.no_grad()
    def take_back_directions(self) -> None:
        """Makes nothing of all directions, before another task: the features are the backbone's again."""
        for projection, _ in self._projections().values():
            projection.B.zero_()
            projection.bank_B.zero_()
        self.rewritten.copy_(self.experiences + 1)

    def _is_open(self) -> bool:
        """Whether every projection has a direction that trains."""
        return all(len(projection.A) for projection, _ in self._projections().values())

    def _trains(self) -> bool:
        """Whether any projection has a direction that trains."""
        return any(len(projection.A) for projection, _ in self._projections().values())

    @torch.no_grad()
    def end_experience(self, trained: int | None = None) -> bool:
        """Reduces the rank of what was learned, as the config says, and records it in ``reductions``.

        Args:
            trained: How many parameters the experience has trained, where the direction has been reduced already; None:
                those that train now.

        Returns:
            Whether any parameter, or buffer that the function depends on, has changed.
        """
        # A run resumed inside the experience did not begin it.
        self._trained = self.count_trainable() if trained is None else trained
        before = [*self.parameters(), *self.buffers()]
        projections = [projection for projection, _ in self._projections().values()]
        banks = [projection.bank_A for projection in projections]
        reducible = self.config.directions != "single"
        self.reductions = reduce_directions(self._projections(), self.magnitudes, self.config) if reducible else []
        changed = any(a is not b for a, b in zip(before, [*self.parameters(), *self.buffers()]))
        recompressed = any(p.bank_A is not bank for p, bank in zip(projections, banks))
        if recompressed or any(record.absorbed for record in self.reductions):
            self.rewritten.copy_(self.experiences)
        self.magnitudes.record(int(self.experiences), self._trains())
        self.head.record(int(self.experiences))
        return changed

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        """Exactly the parameters that train now, by role: the new direction, the magnitudes, the head.

        A parameter that does not require a gradient does not train, as everywhere in torch. Parameters of the backbone
        that have been unfrozen train with the directions.
        """
        groups = {
            "directions": list(self.backbone.parameters()),
            "magnitudes": [self.magnitudes.alpha],
            "head": [self.head.weight, self.head.bias],
        }
        return {name: [p for p in group if p.numel() and p.requires_grad] for name, group in groups.items()}

    def at_task(self, task: int, head: Literal["linear"] | None = None) -> SDLoRAModel:
        """The model as it was at the end of task number ``task``: adapters, magnitudes, and the classes it knew.

        Directions are kept as they were learned, and the magnitudes at the end of each task beside them, so that
        nothing is trained or loaded for it. Features and logits are those of that moment but for rounding.

        Args:
            task: Counted from 1.
            head: ``"linear"``: the head that trains predicts, whatever the config says. None: the head of the config; a
                head in closed form is known of the last task only.

        Returns:
            A copy in evaluation mode, which shares the frozen weights of the backbone with this model. It can predict,
            be saved and merged, and go on learning from there.

        Raises:
            ValueError: There is no such task; or something of that moment is not kept: directions that have been
                recompressed, distilled or trained on since, the solution of a head in closed form, rows of the head
                that later tasks have trained, a backbone that is trained too.
        """
        return model_at_task(self, task, head)

    @contextmanager
    def disabled_adapters(self) -> Iterator[SDLoRAModel]:
        """Within it the adapters are switched off: the backbone computes with its own weights, in every thread.

        The head stays as it is, the trained one and one in closed form alike: it classifies the plain backbone's
        features by what it has learned of adapted ones. So it shows what the adapters contribute to this model, and
        not what a head made for the plain features would reach. Nothing that was learned changes; a new experience
        cannot begin meanwhile.
        """
        before = [(adapter, adapter.enabled) for adapter in self._adapters.values()]
        try:
            for adapter, _ in before:
                adapter.enabled = False
            yield self
        finally:
            for adapter, enabled in before:
                adapter.enabled = enabled

    def print_trainable_parameters(self) -> None:
        """Prints how many parameters train now, by role, out of all; none do before the first experience begins."""
        groups = {name: sum(p.numel() for p in group) for name, group in self.trainable_groups().items()}
        trained, everything = sum(groups.values()), sum(p.numel() for p in self.parameters())
        roles = ", ".join(f"{name} {number:,}" for name, number in groups.items())
        share = 100 * trained / everything
        print(f"trainable params: {trained:,} || all params: {everything:,} || trainable%: {share:.4f} ({roles})")

    def magnitude_report(self) -> list[float]:
        """``alpha_k`` of every direction, oldest first, averaged over the projections."""
        return [float(a) for a in self.magnitudes.values().detach().double().mean(1)]

    def parameter_report(self) -> dict[str, int]:
        """Numbers of parameters.

        Returns:
            ``trained``: parameters that trained in the present or last experience, before any reduction. ``new``: those
            that the experience's direction and its magnitudes add to the kept ones. ``kept``: all low-rank factors,
            magnitudes and the head, as they are now, and parameters of the backbone that have been unfrozen. ``rank``:
            the total rank of all projections.
        """
        projections = [p for p, _ in self._projections().values()]
        factors = {id(t) for projection in projections for t in projection.parameters()}
        unfrozen = sum(p.numel() for p in self.backbone.parameters() if p.requires_grad and id(p) not in factors)
        current = sum(p.A.numel() + p.B.numel() for p in projections)
        bank = sum(p.bank_A.numel() + p.bank_B.numel() for p in projections)
        magnitudes = self.magnitudes.values()
        return {
            "trained": self._trained or self.count_trainable(),
            "new": current + (magnitudes.shape[1] if current else 0),
            "kept": unfrozen + current + bank + magnitudes.numel() + self.head.weight.numel() + self.head.bias.numel(),
            "rank": sum(len(p.owner) for p in projections),
        }

    def count_trainable(self) -> int:
        """How many parameters train now, those of ``trained_beside`` among them."""
        own = sum(p.numel() for group in self.trainable_groups().values() for p in group)
        return own + self.trained_beside

    def _projections(self) -> dict[str, tuple[Projection, int]]:
        """Every projection, named by layer and rows, with its column of the magnitudes."""
        return projections_by_name(self._adapters)

    # -- the function ----------------------------------------------------------------------------------------------

    def features(self, x: Tensor) -> Tensor:
        """The adapted features ``(n, d)`` of the inputs ``x (n, ...)``, in the type of the head.

        Floating inputs are cast to the type of the backbone where no autocast is on. Several threads may call this in
        evaluation mode at once.

        Raises:
            ValueError: The backbone does something after its classifier, or another layer was taken for that.
            RuntimeError: An adapter took no part in the forward pass, so adapting it would change nothing (in training
                mode only if it takes no part in evaluation either); gradients are recorded around it but not
                where it is; or the features have another shape.
        """
        return self._computed(x, self.head.in_features)

    def readings(self, x: Tensor) -> Tensor:
        """What a head in closed form reads of the inputs: ``(n, D)``, the features ``(n, d)`` first.

        With tokens of earlier blocks (``SDLoRAConfig.readout``) ``D`` is a multiple of ``d``; otherwise it is ``d``.

        Raises:
            ValueError: As :meth:`features`.
            RuntimeError: As :meth:`features`.
        """
        if self.closed_form is None or not self.reads_layers:
            return self.features(x)
        return self._computed(x, self.closed_form.before.shape[1], partial(read_layers, self.backbone))

    def _computed(self, x: Tensor, size: int, function: Callable[..., Any] | None = None) -> Tensor:
        """Features of ``size`` numbers that the backbone, or another function of its layers, gives."""
        features = self._passes(self.backbone, x, self._adapters, size, self.autocast, self._more(x), function)
        return features.to(self.head.weight.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether activations of the backbone are computed again in the backward pass instead of being kept.

        Training then needs much less memory, and about a third more time; gradients are the same.

        Raises:
            ValueError: The backbone is no model of timm that can do this.
        """
        setter = getattr(self.backbone, "set_grad_checkpointing", None)
        try:
            if setter is None:
                raise AttributeError("it has no set_grad_checkpointing, as models of timm have")
            setter(enable)
        except (AttributeError, AssertionError, NotImplementedError) as error:  # timm's word for a model that cannot
            raise ValueError(f"grad_checkpointing: not for a {type(self.backbone).__name__} ({error})") from error

    def _more(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the backbone takes beside ``x``: task labels, for the classifier of Avalanche's multi-task models."""
        labels = isinstance(self.backbone, MultiTaskModule)
        return (torch.zeros(len(x), dtype=torch.long, device=x.device),) if labels else ()

    def get_features(self, x: Tensor) -> Tensor:
        """:meth:`features`, by the name under which Avalanche's ``BaseModel`` has it and ``LFLPlugin`` asks for it."""
        return self.features(x)

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Logits ``(n, classes)`` by class label; classes not seen, or not of the sample's task, have -1000.

        They are the linear head's in training, and in evaluation mode those of the head that the config names. A head
        in closed form knows an experience at its end only, so that until then, from when the experience has begun, the
        linear head predicts everything: an evaluation between epochs, as early stopping makes them, sees it learn.
        """
        labels = task_labels if self.config.use_task_labels else None
        if self.training or self.closed_form is None or not self.closed_form.ready:
            return self.head(self.features(x), labels)
        scores, rows = self.closed_form(self.readings(x)), self.head.row_table(labels)
        return self.closed_form.sure(self.head.lay_out(scores, rows), rows < 0)

    def adaptation(self, experience: Any) -> None:
        """Called by Avalanche before training and evaluation alike; only widens the logits, changing no parameter.

        Growth happens in :meth:`begin_experience`, which the plugin calls when training begins and never else.
        """
        if len(experience.dataset):
            self.head.reserve(1 + max(max(classes) for classes in classes_by_task(experience).values()))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module, and counts in ``loads``."""
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
        """Refuse the model: every use of a module comes to this method first.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("unload() has taken the backbone out of this model; adapt it anew: SDLoRAModel(backbone)")
