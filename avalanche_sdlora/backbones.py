"""Backbones by timm name, and a micro vision transformer whose weights come with the package.

Importing this module registers ``vit_micro_patch4_32.formula`` with timm: a vision transformer for 32 x 32
images, pre-trained by ``experiments/studies/pretrain.py`` on generated strokes only and small enough to be bundled, so
that every example and test runs with real pre-trained features and without a download.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchDropout
from timm.models import build_model_with_cfg, generate_default_cfgs, load_state_dict, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from avalanche_sdlora.downloads import DownloadError
from avalanche_sdlora.near import did_you_mean

__all__ = ["create_backbone"]

# The attribute of a model that says whose weights create_backbone has loaded into it.
_LOADED = "loaded_weights"

MICRO_WEIGHTS = Path(__file__).resolve().parent / "weights" / "vit_micro_patch4_32.formula.safetensors"

default_cfgs = generate_default_cfgs(
    {
        "vit_micro_patch4_32.formula": {
            "file": str(MICRO_WEIGHTS),
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "mit",
            "description": "Pre-trained on generated strokes; no natural image was used.",
        }
    }
)


@register_model
def vit_micro_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT-Micro: 64 patches of 4 x 4, width 128, 5 blocks of 4 heads, features averaged over patches.

    It has 1.0 million parameters and no class token.

    Args:
        pretrained: Load the bundled weights (tag ``formula``).
        **kwargs: Arguments of ``timm.models.vision_transformer.VisionTransformer``.

    Returns:
        The network; its features are ``(batch, 128)``.
    """
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 5, "num_heads": 4}
    pooling = {"class_token": False, "global_pool": "avg"}
    return build_model_with_cfg(
        VisionTransformer,
        "vit_micro_patch4_32",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{**shape, **pooling, **kwargs},
    )


def create_backbone(
    name: str,
    *,
    pretrained: bool = True,
    weights: str | os.PathLike[str] | None = None,
    img_size: int | None = None,
) -> torch.nn.Module:
    """Build a timm model without a classifier: images in, features out.

    Args:
        name: timm architecture, with or without a pretrained tag: ``vit_base_patch16_224.augreg_in21k_ft_in1k``.
        pretrained: Load weights: the tag's own, downloaded by timm where they are not bundled, or ``weights``.
        weights: A local file in their place, safetensors or a torch state dict (never an arbitrary pickle).
            Every parameter of the network must be in it; a classifier in it is left out.
        img_size: Side of the square input in pixels, the model's own by default. Position embeddings of
            pre-trained weights are resampled to it.

    Returns:
        The model, in training mode and with every parameter trainable, as timm hands it out. ``loaded_weights``
        knows whose weights it has.

    Raises:
        ValueError: If the architecture or its tag is unknown or has no weights, if the weights file is not
            readable as weights or does not fit, or if the model refuses ``img_size``.
        FileNotFoundError: If there is no file at ``weights``.
        RuntimeError: If timm could not fetch the weights.
    """
    architecture = _check_name(name, pretrained=pretrained and weights is None)
    if weights is not None and not pretrained:
        raise ValueError(f"weights={os.fspath(weights)!r} contradicts pretrained=False; leave one of them out.")
    kwargs: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    if img_size is not None:
        _check_img_size(architecture, img_size)
    if weights is not None:
        model = _create_from_file(name, Path(weights), kwargs)
        setattr(model, _LOADED, name)
        return model
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **kwargs)
    except Exception as error:  # the hub's clients raise RuntimeError, OSError and HTTP errors of their own
        if not pretrained:
            raise
        raise DownloadError(name, error) from error
    if pretrained:
        setattr(model, _LOADED, configured_name(model))
    return model


def drop_patches(model: torch.nn.Module, share: float) -> None:
    """Lets a vision transformer of timm train on some of the patches of each image, in place.

    In training mode a random part of the patches is left out of every image before the first block (Liu et al.,
    "PatchDropout", WACV 2023, arXiv 2208.07220), so that a step takes so much less time; in evaluation mode none is.

    Args:
        model: The model, before it is adapted or after.
        share: The part of the patches to leave out, at least 0 and below 1; at least one patch stays.

    Raises:
        ValueError: The share is out of range, or the model is no plain vision transformer of timm.
    """
    if not 0 <= share < 1:
        raise ValueError(f"patch_drop={share!r}: expected a share of at least 0 and below 1")
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"patch_drop={share!r}: needs a VisionTransformer of timm, got a {type(model).__name__}")
    model.patch_drop = PatchDropout(share, model.num_prefix_tokens) if share else torch.nn.Identity()
    model.patch_drop.train(model.training)


def loaded_weights(model: torch.nn.Module) -> str | None:
    """The timm name, with its tag, of the weights that :func:`create_backbone` has loaded into ``model``.

    Weights of a local file have the name that was given with it. None where there are none, or where ``model`` comes
    from elsewhere and may have any weights, those that its configuration names among them.
    """
    return getattr(model, _LOADED, None)


def configured_name(model: torch.nn.Module) -> str | None:
    """The name, with its tag, that timm's configuration of ``model`` has, whatever its weights; None without one."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return ".".join(part for part in (config.get("architecture"), config.get("tag")) if part) or None


def _check_name(name: str, *, pretrained: bool) -> str:
    """Architecture part of ``name``, once it is known to timm and, if asked for, has weights."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models()) or "; timm.list_models() lists those that it knows."
        raise ValueError(f"name={name!r}: timm knows no architecture {architecture!r}{hint}")
    known = timm.list_models(f"{architecture}.*", include_tags=True)
    if tag and name not in known:
        tags = ", ".join(k.partition(".")[2] for k in known) or "none"
        raise ValueError(f"name={name!r}: {architecture} has no pretrained tag {tag!r}; its tags: {tags}.")
    if pretrained and not timm.models.is_model_pretrained(name):
        raise ValueError(f"name={name!r} has no pretrained weights; pass weights= or pretrained=False.")
    return architecture


def _check_img_size(architecture: str, img_size: int) -> None:
    """Refuse a size that the architecture does not take, before any weights are fetched."""
    if img_size < 1:
        raise ValueError(f"img_size={img_size} must be at least 1 pixel.")
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=img_size)
    except Exception as error:  # TypeError where there is no such argument, anything where the value is wrong
        raise ValueError(
            f"img_size={img_size} is not accepted by {architecture} ({error}); leave it out for the model's own."
        ) from error
    embed = getattr(model, "patch_embed", None)
    patch = max(getattr(embed, "patch_size", (1,)))
    if img_size % patch and not getattr(embed, "dynamic_img_pad", False):
        near = max(patch, img_size // patch * patch)
        raise ValueError(
            f"img_size={img_size} is not divisible by the patch size {patch} of {architecture}; "
            f"{near} or {near + patch} would be."
        )


def _create_from_file(name: str, path: Path, kwargs: dict[str, Any]) -> torch.nn.Module:
    """``timm.create_model`` with the weights of ``path``, none of which may be missing."""
    if not path.is_file():
        raise FileNotFoundError(f"weights={str(path)!r}: there is no such file.")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # every format's reader has errors of its own
        raise ValueError(
            f"weights={str(path)!r} is not readable as weights ({error}); "
            "expected a .safetensors file or a torch-saved state dict."
        ) from error
    # timm stops checking for missing weights once it has dropped a classifier. So we build the classifier that
    # the file has, have timm load everything strictly (``classifier=None``: drop nothing), and remove it after.
    config = timm.get_pretrained_cfg(name)
    classifier = config.classifier if config is not None else None
    first = classifier if isinstance(classifier, str) or not classifier else classifier[0]
    head = state.get(f"{first}.weight") if isinstance(state, Mapping) else None
    try:
        model = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path), "classifier": None},
            num_classes=0 if head is None else head.shape[0],
            **kwargs,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"weights={str(path)!r} does not fit name={name!r}: {reason}") from error
    model.pretrained_cfg["classifier"] = classifier
    if head is not None:
        model.reset_classifier(0)
    return model
