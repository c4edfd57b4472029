"""Leaving this package: a learned model as a plain network, or as a LoRA that PEFT loads."""

from __future__ import annotations

import copy
import json
import os
import re
from collections import OrderedDict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.attention import put_layer
from avalanche_sdlora.adapter.functional import all_factors, linear_layer
from avalanche_sdlora.adapter.linear import SDLoRALinear
from avalanche_sdlora.files import replacing
from avalanche_sdlora.heads.classifier import gives_outputs, leave_plain
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.growing_head import MASKED
from avalanche_sdlora.heads.readout import plain_reader
from avalanche_sdlora.heads.sureness import plain_sure
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.persistence.adapter_files import backbone_name


@torch.no_grad()
def merge(model: SDLoRAModel) -> nn.Module:
    """A plain network with the learned weights and head: images in, logits by class label out.

    Nothing of this package is in it, so that it can be compiled, exported or saved like any other.

    Args:
        model: The learned model; it is left as it is.

    Returns:
        For a timm model with a linear head its architecture, with a classifier of the learned classes; for other
        modules an ``nn.Sequential`` of the backbone and an ``nn.Linear`` called ``head``. With a head in closed form
        ``head`` is an ``nn.Sequential`` of the layers of its random expansion, if any, the linear layer, and one that
        makes log-probabilities of scores; a backbone of which earlier blocks are read is a ``torch.fx.GraphModule`` of
        its layers. In evaluation mode. Logits are those of ``model`` without task
        labels, in the precision of the weights; a label never seen has the logit -1000.

    Raises:
        ValueError: One class label means several classes, so the logits depend on task labels; or the backbone
            returns objects in place of tensors.
    """
    if gives_outputs(model.backbone):
        raise ValueError(
            f"model: {backbone_name(model.backbone)} returns an object in place of a tensor, which no plain head "
            "takes; use the model itself, or wrap its backbone in a module that returns features before adapting it"
        )
    solved = model.closed_form if model.closed_form is not None and model.closed_form.ready else None
    expansion, weight, bias = _classifier(model, solved)
    last = None if solved is None or solved.power is None else plain_sure(solved.power, bias == MASKED)
    backbone = copy.deepcopy(model.backbone)
    leave_plain(backbone)
    plain: dict[int, nn.Linear] = {}  # a layer used under several names stays one
    for name, adapter in list(backbone.named_modules(remove_duplicate=False)):
        if isinstance(adapter, SDLoRALinear):
            merged = adapter.merged(adapter.base.weight.dtype)
            layer = plain.setdefault(id(adapter), linear_layer(merged, adapter.base.bias))
            put_layer(backbone, name, layer)
    own = next(p for p in backbone.parameters() if p.is_floating_point())
    weight, bias = weight.to(own.dtype), bias.to(own.dtype)
    expansion = None if expansion is None else expansion.to(own.dtype)
    if model.reads_layers and solved is not None:
        backbone = plain_reader(backbone)
    return _with_head(backbone, expansion, weight, bias, last).requires_grad_(True).eval()


@torch.no_grad()
def export_peft(model: SDLoRAModel, folder: str | os.PathLike[str]) -> None:
    """Writes one LoRA (Hu et al., arXiv 2106.09685) with all directions, at their magnitudes, for PEFT.

    Every adapted layer gets ``A (R, in)``, the rows of all its directions, and ``B (out, R)``, the columns times their
    coefficients, zero outside the rows that a direction updates; scaling 1. So on the same backbone without classifier
    (``timm.create_model(name, pretrained=True, num_classes=0)``), ``peft.PeftModel.from_pretrained(backbone,
    folder)`` gives the features of ``model``. The head is not part of the export.

    Args:
        model: The learned model.
        folder: Gets ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ValueError: Nothing has been learned yet, or the backbone reads the weight of its layers without calling
            them, where PEFT's layers would have no effect; :func:`merge` works there.
        OSError: The files cannot be written.
    """
    factors = {name: _stacked(m) for name, m in model.backbone.named_modules() if isinstance(m, SDLoRALinear)}
    factors = {name: (A, B) for name, (A, B) in factors.items() if len(A)}
    if not factors:
        raise ValueError("model: has no directions yet; expected one that began to learn")
    for name in factors:
        parent = model.backbone.get_submodule(name.rpartition(".")[0])
        # EVA-02, BEiT and SwinV2 add this bias to the weight's product; torch's own attention calls no layer at all.
        if isinstance(parent, nn.MultiheadAttention) or getattr(parent, "q_bias", None) is not None:
            raise ValueError(
                f"model: {backbone_name(model.backbone)} reads the weight of {name!r} without calling the layer, so "
                "PEFT's layer would have no effect; use merge(model)"
            )
    largest = max(len(A) for A, _ in factors.values())
    others = {f"^{re.escape(name)}": len(A) for name, (A, _) in factors.items() if len(A) != largest}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": backbone_name(model.backbone),
        "inference_mode": True,
        "target_modules": "|".join(map(re.escape, factors)),  # a pattern: in a list, "0" would also mean "block.0"
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": t.cpu().contiguous()
        for name, pair in factors.items()
        for letter, t in zip("AB", pair)
    }
    with replacing(Path(folder, "adapter_model.safetensors")) as file:
        file.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
    with replacing(Path(folder, "adapter_config.json")) as file:  # last: PEFT looks for it first
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _stacked(adapter: SDLoRALinear) -> tuple[Tensor, Tensor]:
    """``A (R, in)`` and ``B (out, R)`` of all projections of a layer, coefficients in ``B``."""
    updates = adapter.updates()
    weight = adapter.base.weight
    if not updates:
        return weight.new_empty(0, adapter.in_features), weight.new_empty(adapter.out_features, 0)
    factors = [all_factors(u) for u in updates]
    A = torch.cat([A for A, _ in factors])
    B = A.new_zeros(adapter.out_features, len(A))
    column = 0
    for u, (_, own) in zip(updates, factors):
        B[u.start : u.stop, column : column + len(u.c)] = own * u.c
        column += len(u.c)
    return A, B


def _classifier(model: SDLoRAModel, solved: ClosedFormHead | None) -> tuple[nn.Sequential | None, Tensor, Tensor]:
    """Expansion of the features, if any; weight ``(classes, d)`` and bias ``(classes,)`` by class label.

    Classes never seen have weight 0 and bias -1000.
    """
    try:
        rows = model.head.row_table()[0]  # (classes,)
    except ValueError as error:
        raise ValueError(f"model: a plain network takes no task labels, but {error}") from error
    if not len(model.head.weight):
        raise ValueError("model: has seen no classes yet; expected one that began to learn")
    expansion, weight, bias = None, model.head.weight.detach(), model.head.bias.detach()
    if solved is not None:
        expansion, *own = solved.plain()
        weight, bias = (t.to(weight) for t in own)
    unseen = rows < 0
    rows = rows.masked_fill(unseen, 0)
    return expansion, weight[rows].masked_fill(unseen[:, None], 0.0), bias[rows].masked_fill(unseen, MASKED)


def _with_head(
    backbone: nn.Module, expansion: nn.Sequential | None, weight: Tensor, bias: Tensor, last: nn.Module | None
) -> nn.Module:
    if expansion is None and last is None and callable(getattr(backbone, "reset_classifier", None)):  # timm
        backbone.reset_classifier(len(weight))  # type: ignore[operator]
        found = backbone.get_classifier()  # type: ignore[operator]
        # A distilled model has two and averages their logits, as it averaged the features that the head learned from.
        linears = found if isinstance(found, tuple | list) else [found]
        if all(isinstance(m, nn.Linear) and m.weight.shape == weight.shape and m.bias is not None for m in linears):
            for linear in linears:
                linear.to(weight.device, weight.dtype)
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            return backbone
        backbone.reset_classifier(0)  # type: ignore[operator]
    head = linear_layer(weight, bias)
    layers = [*(expansion or ()), head, *([] if last is None else [last])]
    classifier = head if len(layers) == 1 else nn.Sequential(*layers)
    return nn.Sequential(OrderedDict(backbone=backbone, head=classifier))
