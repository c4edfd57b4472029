"""Training on some of the patches of each image, as an Avalanche plugin."""

from __future__ import annotations

from typing import Any

from avalanche.core import SupervisedPlugin

from avalanche_sdlora.backbones import drop_patches


class PatchDropPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Leaves a share of the patches out of each training image (:func:`avalanche_sdlora.backbones.drop_patches`).

    Later tasks, which take small steps from features that have been learned, lose less by it than the first one, from
    which most of the features come.

    Args:
        share: The part of the patches to leave out, at least 0 and below 1.
        later: The part for each task after the first; None: ``share``.

    Raises:
        ValueError: A share is out of range; at the first experience, if the backbone is no plain vision transformer of
            timm.
    """

    def __init__(self, share: float = 0.0, later: float | None = None) -> None:
        super().__init__()
        self.share, self.later = share, share if later is None else later
        for name, value in (("share", self.share), ("later", self.later)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected a share of at least 0 and below 1")

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Set the share of the present task, also where training goes on from a checkpoint."""
        drop_patches(strategy.model.backbone, self.later if int(strategy.model.experiences) > 1 else self.share)
