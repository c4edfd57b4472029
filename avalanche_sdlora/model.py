"""A frozen backbone with SD-LoRA adapters and a head that grows: the model that learns a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from avalanche_sdlora.adapter import Magnitudes, SDLoRALinear, projections_of
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.features import remove_classifier
from avalanche_sdlora.functional import merged_weight
from avalanche_sdlora.head import GrowingHead
from avalanche_sdlora.stream import classes_by_task
from avalanche_sdlora.targets import find_targets

logger = logging.getLogger("avalanche_sdlora")


class SDLoRAModel(MultiTaskModule):
    """Class logits from a frozen backbone adapted by SD-LoRA (Wu et al., arXiv 2501.13198).

    The backbone is changed in place: its classifier is removed, its parameters are frozen, and the target layers are
    replaced. Everything the method learns is in the state dict; a strict load into a fresh model of the same
    backbone and config restores any stage of a stream.

    Args:
        backbone: A timm model, or any module whose classifier can be found (see
            :func:`avalanche_sdlora.features.remove_classifier`).
        config: What is adapted, and how.

    Raises:
        ValueError: No features, no matching layer, or a rank that a layer cannot hold.
    """

    def __init__(self, backbone: nn.Module, config: SDLoRAConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else SDLoRAConfig()
        #: Precision of the backbone's forward pass, e.g. ``torch.bfloat16``; weights and logits stay float32.
        self.autocast: torch.dtype | None = None
        features = remove_classifier(backbone)  # first, so that no pattern can select the classifier
        targets = find_targets(backbone, self.config.target_patterns, self.config.rank)
        device = next(backbone.parameters()).device
        self.backbone = backbone.requires_grad_(False)
        shared = self.config.magnitudes == "shared"
        self.magnitudes = Magnitudes(1 if shared else sum(len(t.rows) for t in targets)).to(device)
        self.head = GrowingHead(features).to(device)
        self._adapters: dict[str, SDLoRALinear] = {}
        column = 0
        for name, rows in targets:
            adapter = SDLoRALinear(backbone.get_submodule(name), rows)  # type: ignore[arg-type]
            adapter.connect(self.magnitudes, [0 if shared else column + i for i in range(len(rows))])
            column += len(rows)
            backbone.set_submodule(name, adapter)
            self._adapters[name] = adapter

    # -- the stream ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_experience(self, classes: Mapping[int, Iterable[int]]) -> list[tuple[Tensor, Tensor]]:
        """Freezes and normalises the direction learned before, opens a new one, and grows the head.

        Args:
            classes: Class labels of the experience by task label (one label, 0, for streams without them).

        Returns:
            ``(old, new)`` for each parameter that continues under a new tensor, so that an optimizer can follow.
        """
        jumps = self.config.boundary == "reset" and len(self.magnitudes) > 0
        before = self._weights() if jumps else []
        direction = len(self.magnitudes)
        for adapter in self._adapters.values():
            for projection, column in zip(projections_of(adapter), adapter._columns):
                if direction:
                    projection.freeze(self.magnitudes.alpha[-1, column], self.config)
                projection.begin(self.config.rank, direction)
        replaced = [self.magnitudes.begin(self.config), *self.head.grow(classes)]
        if jumps:
            moved = [torch.linalg.norm(a - b) / torch.linalg.norm(b) for a, b in zip(self._weights(), before)]
            logger.info(
                "boundary before direction %d: the adapted weights jump by %.2e on average, %.2e at most (relative)",
                direction + 1,
                torch.stack(moved).mean(),
                torch.stack(moved).max(),
            )
        return replaced

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        """Exactly the parameters that train now, by role: the new direction, the magnitudes, the head."""
        projections = projections_of(self.backbone)
        groups = {
            "directions": [p for projection in projections for p in (projection.A, projection.B)],
            "magnitudes": [self.magnitudes.alpha],
            "head": [self.head.weight, self.head.bias],
        }
        return {name: [p for p in group if p.numel()] for name, group in groups.items()}

    def magnitude_report(self) -> list[float]:
        """``alpha_k`` of every direction begun so far, averaged over the projections."""
        return [float(a) for a in self.magnitudes.alpha.detach().double().mean(1)]

    def _weights(self) -> list[Tensor]:
        return [merged_weight(a.base.weight, a.updates()) for a in self._adapters.values()]

    # -- the function ----------------------------------------------------------------------------------------------

    def features(self, x: Tensor) -> Tensor:
        """Adapted features ``(n, d)`` in float32 (or wider) of the inputs ``x (n, ...)``.

        Raises:
            RuntimeError: An adapter took no part in the forward pass, so adapting it would change nothing.
        """
        for adapter in self._adapters.values():
            adapter.took_part = False
        own = nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast)
        with own:  # a caller's own autocast stays in force where there is none of ours
            features = self.backbone(x)
        idle = [name for name, adapter in self._adapters.items() if not adapter.took_part]
        if idle:
            raise RuntimeError(
                f"{len(idle)} of {len(self._adapters)} adapted layers took no part in the forward pass, the first "
                f"being {idle[0]!r}: the model neither calls them nor reads their weight. Name other targets"
            )
        if not isinstance(features, Tensor) or features.dim() != 2 or features.shape[1] != self.head.in_features:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise RuntimeError(f"the backbone must give features of shape (n, {self.head.in_features}), got {got}")
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Logits ``(n, classes)`` by class label; classes not seen, or not of the sample's task, have -1000."""
        return self.head(self.features(x), task_labels if self.config.use_task_labels else None)

    def adaptation(self, experience: Any) -> None:
        """Called by Avalanche before training and evaluation alike; only widens the logits, changing no parameter.

        Growth happens in :meth:`begin_experience`, which the plugin calls when training begins and never else.
        """
        self.head.reserve(1 + max(max(classes) for classes in classes_by_task(experience).values()))

    def train(self, mode: bool = True) -> SDLoRAModel:
        """Normalisation layers with running statistics stay in evaluation mode: the backbone is frozen."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self
