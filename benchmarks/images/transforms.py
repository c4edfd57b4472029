"""From images to the input of a backbone: its size, its interpolation, its normalisation.

Pixels normalised for another backbone cost far more accuracy than any method gains, so nothing here has a
default taken from ImageNet: a :class:`InputSpec` is read from the model or stated in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from benchmarks.images.choices import Augment, check_augment
from benchmarks.images.threads import one_thread

# Resize to 256, crop to 224: the proportion of the published test transform, kept at other sizes.
_RESIZE_OVER_CROP = 256 / 224

# The interpolations of torchvision that resize tensors.
_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class InputSpec:
    """The input images that a backbone expects.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of the three channels, for pixels within 0 and 1.
        std: Standard deviation of the three channels, for pixels within 0 and 1.
        interpolation: How images are resized, ``nearest``, ``nearest-exact``, ``bilinear``, ``bicubic`` or
            ``lanczos``. Always with antialiasing, which is how timm's own (PIL) transforms resize.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"The input size must be positive; got {self.size}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std are three numbers each, std positive; got {self.mean} and {self.std}.")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"Unknown interpolation {self.interpolation!r}; one of {', '.join(_INTERPOLATIONS)}.")

    @classmethod
    def of(cls, model: nn.Module, *, size: int | None = None) -> InputSpec:
        """Read the specification that belongs to a timm model's weights.

        Args:
            model: A timm model, or a module with one as ``backbone``.
            size: Another input size. By default the size the model was *built* for (``img_size``), and where
                it does not say so, the one its weights were trained at.

        Raises:
            ValueError: The model carries no timm configuration, or expects images that are not square RGB.
        """
        timm_model: Any = model if hasattr(model, "pretrained_cfg") else getattr(model, "backbone", model)
        if not getattr(timm_model, "pretrained_cfg", None):
            raise ValueError(
                f"{type(timm_model).__name__} carries no timm configuration; state its input in full, "
                "as InputSpec(size=, mean=, std=)."
            )
        config = resolve_data_config(model=timm_model)
        channels, height, width = config["input_size"]
        # The configuration of the weights keeps its size when the model is built for another one.
        built_for = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)
        if built_for is not None:
            height, width = built_for
        if channels != 3 or height != width:
            raise ValueError(f"Expected square RGB input; the model takes {channels} x {height} x {width}.")
        return cls(
            height if size is None else size,
            tuple(config["mean"]),
            tuple(config["std"]),
            config["interpolation"],
        )


def train_transform(spec: InputSpec, augment: Augment = "paper") -> v2.Transform:
    """The transform of training images.

    In goes a PIL image or a ``(3, H, W)`` uint8 tensor, out comes a normalised ``(3, size, size)`` float32
    tensor.

    Args:
        spec: The input that the backbone expects.
        augment: ``paper``: a random crop of 5 to 100 % of the area with sides 3:4 to 4:3, resized, and a
            horizontal flip half of the time. ``flip``: the whole image resized, and the flip. ``none``: the
            whole image resized, as :func:`eval_transform` does with ``crop=False``.

    Raises:
        ValueError: ``augment`` is none of these.
    """
    check_augment(augment)
    if augment == "paper":
        crop = v2.RandomResizedCrop(
            spec.size, scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3), interpolation=_mode(spec), antialias=True
        )
        return _pipeline(spec, crop, random_flip())
    flip = [random_flip()] if augment == "flip" else []
    return _pipeline(spec, *flip, _whole(spec))  # flipping first: the image is still small


def eval_transform(spec: InputSpec, *, crop: bool) -> v2.Transform:
    """The transform of test images, without randomness; it takes and gives images as :func:`train_transform` does.

    Args:
        spec: The input that the backbone expects.
        crop: Photographs (True): the shorter side is resized to 256/224 of ``size`` and the centre cut out,
            as published. Low-resolution square images (False): the whole image is resized to ``size``.
    """
    if not crop:
        return _pipeline(spec, _whole(spec))
    shorter = round(spec.size * _RESIZE_OVER_CROP)
    return _pipeline(spec, v2.Resize(shorter, interpolation=_mode(spec), antialias=True), v2.CenterCrop(spec.size))


def resize(spec: InputSpec) -> v2.Transform:
    """The whole image to ``size``, for ``(..., 3, H, W)`` uint8 tensors: the first part of both transforms."""
    return _OneThread([_whole(spec)])


def normalize(spec: InputSpec, *steps: v2.Transform) -> v2.Transform:
    """From uint8 tensors of ``size`` to the input of the backbone, after ``steps``: the other part of them."""
    return _OneThread(
        [
            *steps,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(spec.mean), list(spec.std), inplace=True),
        ]
    )


def random_flip() -> v2.Transform:
    """The horizontal flip of training, half of the time; for images before or after normalisation."""
    return v2.RandomHorizontalFlip(0.5)


def _pipeline(spec: InputSpec, *steps: v2.Transform) -> v2.Transform:
    """Tensor, the given steps on uint8 (several times cheaper to resize than float32), then normalisation."""
    return normalize(
        spec,
        v2.RGB(),  # first, since only PIL can drop an alpha channel
        v2.PILToTensor(),  # leaves tensors as they are
        *steps,
    )


class _OneThread(v2.Compose):
    """A composition that transforms an image on one thread."""

    def forward(self, *inputs: Any) -> Any:
        with one_thread():
            return super().forward(*inputs)


def _whole(spec: InputSpec) -> v2.Transform:
    return v2.Resize((spec.size, spec.size), interpolation=_mode(spec), antialias=True)


def _mode(spec: InputSpec) -> InterpolationMode:
    return InterpolationMode(spec.interpolation)
