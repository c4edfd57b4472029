"""Adapters as files: all that a model has learned in one safetensors file, without the backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.undo import unchanged_on_error
from avalanche_sdlora.backbones import configured_name, create_backbone, loaded_weights
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.heads.evidence import Evidence
from avalanche_sdlora.learned import learned_state, load_learned
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.persistence.fingerprint import fingerprint
from avalanche_sdlora.persistence.tensorfile import read_tensors, write_tensors

# Version 2 has what SDLoRAModel.at_task needs, version 3 what makes probabilities of scores, version 4 the
# log loss of held-out images in the place of old classes, version 5 whether an experience has been kept, version 6 the
# penalties of all classifiers, version 7 the way back to before the first task, version 8 how many images have said how
# sure to be.
_KIND, _VERSION = "sdlora-adapters", 8


@dataclass(frozen=True)
class AdaptersInfo:
    """The description that an adapters file holds.

    Attributes:
        backbone: timm name of the backbone, or the name of its class. It has the tag of pre-trained weights only where
            :func:`avalanche_sdlora.create_backbone` has loaded them.
        image_size: Height and width of its input in pixels; None where the backbone does not say.
        fingerprint: SHA-256 of its frozen weights (:func:`avalanche_sdlora.persistence.fingerprint.fingerprint`).
        config: The method's settings.
        class_names: By class label; None if none were given.
        notes: Values of JSON that the writer wanted to travel with the file.
        classifier: Name of the backbone's classifier, as the model was told it; None where it was found.
        timm_name: The name, tag included, in timm's configuration of the backbone, whose weights may be others; None
            for models from elsewhere.
    """

    backbone: str
    image_size: tuple[int, int] | None
    fingerprint: str
    config: SDLoRAConfig
    class_names: list[str] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    classifier: str | list[str] | None = None
    timm_name: str | None = None


def save_adapters(
    model: SDLoRAModel,
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes directions, magnitudes, head and config of ``model``, never its backbone, into one file.

    Args:
        model: The model, at any stage of a stream.
        path: A safetensors file; written whole or not at all, in place of an older one.
        class_names: Names by class label, one for each label up to the largest seen.
        dtype: ``torch.float32``, or ``torch.bfloat16`` to store directions and head weights in half the size.
        notes: Anything that JSON can say, to travel with the file.

    Raises:
        TypeError: ``model`` is no :class:`SDLoRAModel`, or the notes are not plain.
        ValueError: Another ``dtype``, or too few class names.
        OSError: The file cannot be written.
    """
    if not isinstance(model, SDLoRAModel):
        raise TypeError(f"model: expected an SDLoRAModel, got {type(model).__name__}")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype={dtype}: expected torch.float32 or torch.bfloat16")
    largest = max(model.head.classes(), default=-1)
    if class_names is not None and len(class_names) <= largest:
        raise ValueError(f"class_names: {len(class_names)} names for class labels up to {largest}; expected one each")
    about = {
        "backbone": backbone_name(model.backbone),
        "image_size": _image_size(model.backbone),
        "fingerprint": fingerprint(model),
        "config": model.config.to_dict(),
        "class_names": None if class_names is None else [str(name) for name in class_names],
        "notes": dict(notes or {}),
        "classifier": model.classifier_name,
        "timm_name": configured_name(model.backbone),
    }
    tensors = {
        # Matrices make the size; scales, magnitudes and the float64 of a closed-form head keep their precision.
        name: t.to(dtype) if t.dtype == torch.float32 and t.dim() == 2 and not name.startswith("magnitudes.") else t
        for name, t in learned_state(model).items()
    }
    write_tensors(path, _KIND, _VERSION, tensors, about)


def read_adapters(path: str | os.PathLike[str]) -> AdaptersInfo:
    """Read the description that an adapters file holds, once its checksum has been verified.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of a newer version, or no adapters file.
    """
    return _read(path)[1]


def load_adapters(model: SDLoRAModel, path: str | os.PathLike[str]) -> AdaptersInfo:
    """Puts the content of a file of :func:`save_adapters` into ``model``, which may be at any stage of any stream.

    Args:
        model: A model with the backbone, the weights and the config of the saved one; :func:`read_adapters` tells
            which.
        path: The file.

    Returns:
        The file's description, class names included.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of a newer version, made on another backbone or with another config; the
            model is untouched.
    """
    if not isinstance(model, SDLoRAModel):
        raise TypeError(f"model: expected an SDLoRAModel, got {type(model).__name__}")
    tensors, info = _read(path)
    name = f"{os.fspath(path)!r}"
    if info.fingerprint != (own := fingerprint(model)):
        raise ValueError(
            f"{name} belongs to the backbone {info.backbone} with weights {info.fingerprint[:12]} and images of "
            f"{info.image_size} pixels; this model has {backbone_name(model.backbone)} with weights {own[:12]} and "
            f"images of {_image_size(model.backbone)}"
        )
    if info.config != model.config:
        raise ValueError(
            f"{name} was made with {info.config}; this model was adapted with {model.config}. Make it with "
            "load_model(path, backbone)"
        )
    try:
        load_learned(model, tensors)
    except ValueError as error:
        raise ValueError(f"{name} does not fit the model: {error}") from error
    return info


def load_model(
    path: str | os.PathLike[str],
    backbone: str | nn.Module | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
) -> SDLoRAModel:
    """The model that :func:`save_adapters` wrote into a file, on its backbone, ready to predict.

    Args:
        path: The file.
        backbone: The module that it was adapted from, changed in place; or a timm name. None: the file says which.
        weights: A local file with the backbone's weights, for a backbone that is made by its name; see
            :func:`avalanche_sdlora.create_backbone`.

    Returns:
        The model, in evaluation mode. It can go on learning; :func:`read_adapters` has class names and notes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, its backbone has other weights or cannot be made by its name, or ``weights``
            come with a module. A module that was given is left as it was.
        RuntimeError: The backbone's weights cannot be downloaded.
    """
    info = read_adapters(path)
    if isinstance(backbone, nn.Module):
        if weights is not None:
            raise ValueError(f"weights={os.fspath(weights)!r}: the backbone is a module, which has weights")
    else:
        name = backbone or (info.backbone if "." in info.backbone else info.timm_name)
        if name is None:
            raise ValueError(
                f"{os.fspath(path)!r} belongs to a {info.backbone}, which is no timm model; give the module: "
                "load_model(path, backbone)"
            )
        size = info.image_size[0] if info.image_size else None
        backbone = create_backbone(name, weights=weights, img_size=size)
    with unchanged_on_error(backbone):
        model = SDLoRAModel(backbone, info.config, classifier=info.classifier)
        load_adapters(model, path)
    return model.eval()


def backbone_name(backbone: nn.Module) -> str:
    """The timm name of a backbone, or the name of its class; with the tag of its weights where they are known."""
    configured = configured_name(backbone) or type(backbone).__name__
    return loaded_weights(backbone) or configured.partition(".")[0]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], AdaptersInfo]:
    tensors, about = read_tensors(path, _KIND, _VERSION)
    _complete(tensors)
    try:
        # Files from before there was a choice do not name it.
        about["config"] = SDLoRAConfig.from_dict({"readout": "features", **about["config"]})
        about["image_size"] = about["image_size"] and tuple(about["image_size"])
        return tensors, AdaptersInfo(**about)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} describes itself in a way this version does not know: {error}"
        ) from error


def _complete(tensors: dict[str, Tensor]) -> None:
    """Adds what files of earlier versions do not have.

    Version 1 does not say what earlier tasks were, of which nothing is known; up to version 2, probabilities are the
    softmax of the scores; up to version 3, what experiences do to old classes was counted in another way; up to version
    4, later ones were kept as if an earlier one had been; up to version 5, every experience chooses its penalties; up
    to version 6, the second one did not judge the first; up to version 7, the same images said how sure to be as which
    classifier is best, and the state of the second look was part of the head's.
    """
    state = "closed_form._extra_state"
    if "closed_form.evidence.loss" in tensors and "closed_form.evidence.surprise" not in tensors:
        none = Evidence(len(tensors["closed_form.evidence.loss"]))
        tensors["closed_form.evidence.surprise"], tensors["closed_form.evidence.looked"] = none.surprise, none.looked
    if tensors.pop("closed_form.evidence.harmed", None) is not None:
        tensors["closed_form.evidence.harm"] = tensors.pop("closed_form.evidence.kept").new_zeros(2)
    if "closed_form.evidence.recent" in tensors:
        tensors.setdefault("closed_form.evidence.looked", tensors["closed_form.evidence.recent"])
    if "closed_form.evidence.harm" in tensors:
        held = tensors["closed_form.evidence.held"]
        tensors.setdefault("closed_form.evidence.moved", held.new_ones(()))
        tensors.setdefault("closed_form.penalties.values", held.new_empty(0))
        tensors.setdefault("closed_form.penalties.samples", held.new_zeros(()))
    if state in tensors:
        looked = torch.tensor(0)
        if (lacking := 3 - len(tensors[state])) > 0:
            tensors[state] = torch.cat([tensors[state], tensors[state].new_zeros(lacking)])
        elif lacking == -1:
            tensors[state], looked = tensors[state][:3].clone(), tensors[state][3].clone()
        tensors.setdefault("closed_form.second_look._extra_state", looked)
    for name in [name for name in tensors if name.startswith("closed_form.spare.")]:
        tensors[name.replace(".spare.", ".second_look.spare.", 1)] = tensors.pop(name)
    for name in [name for name in tensors if name.startswith("closed_form.sums.")]:
        empty = tensors[name].new_empty([0] * tensors[name].dim())
        tensors.setdefault(name.replace(".sums.", ".second_look.spare.", 1), empty)
    for name in [name for name in tensors if name.endswith(".owner")]:
        tensors.setdefault(f"{name.removesuffix('owner')}norm", torch.ones(len(tensors[name])))
    if {"head.row_of", "magnitudes.alpha", "experiences"} <= tensors.keys():
        alpha = tensors["magnitudes.alpha"]
        tensors.setdefault("head.born", (tensors["head.row_of"] >= 0).long())
        tensors.setdefault("head.checksums", torch.empty(0, dtype=torch.long))
        tensors.setdefault("magnitudes.history", alpha.new_empty(0, *alpha.shape[1:]))
        tensors.setdefault("magnitudes.counts", torch.empty(0, 2, dtype=torch.long))
        tensors.setdefault("rewritten", tensors["experiences"].clone())


def _image_size(backbone: nn.Module) -> tuple[int, int] | None:
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    return None if size is None else tuple(size)
