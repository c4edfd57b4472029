"""The models that the library's speed is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 100


class Classifier(nn.Module):
    """A backbone and a linear head, for the models that are not this library's."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.backbone(x).float())


class Branches(nn.Module):
    """A fused qkv Linear with one pair of small products per task on query and value: 4t products at task t."""

    def __init__(self, base: nn.Linear, tasks: int, rank: int) -> None:
        super().__init__()
        self.base, d = base, base.in_features
        for name in ("q", "v"):
            for k in range(tasks):
                last = k == tasks - 1
                self.register_parameter(f"A_{name}{k}", nn.Parameter(torch.randn(rank, d) / d, requires_grad=last))
                self.register_parameter(f"B_{name}{k}", nn.Parameter(torch.randn(d, rank) / d, requires_grad=last))
        self.alpha = nn.Parameter(torch.ones(2, tasks))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., d)`` to ``(..., 3 d)``."""
        q, key, v = self.base(x).chunk(3, -1)
        for k in range(self.alpha.shape[1]):
            q = q + self.alpha[0, k] * self._branch(x, f"q{k}")
            v = v + self.alpha[1, k] * self._branch(x, f"v{k}")
        return torch.cat([q, key, v], -1)

    def _branch(self, x: Tensor, name: str) -> Tensor:
        return F.linear(F.linear(x, getattr(self, f"A_{name}")), getattr(self, f"B_{name}"))


def bound(backbone: nn.Module) -> nn.Module:
    """The frozen backbone with a head; the input gradient flows back to the first block, as it would to an adapter."""
    backbone.patch_embed.register_forward_hook(lambda module, args, out: out.detach().requires_grad_())  # type: ignore[union-attr]
    return Classifier(backbone, backbone.num_features)  # type: ignore[arg-type]


def peft_lora(backbone: nn.Module, rank: int) -> nn.Module:
    """One LoRA on every fused qkv, by the PEFT library."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"]), backbone)
    return Classifier(backbone, backbone.num_features)  # type: ignore[arg-type]


def branches(backbone: nn.Module, tasks: int, rank: int) -> nn.Module:
    """One branch per task in every block."""
    for block in backbone.blocks:  # type: ignore[union-attr]
        block.attn.qkv = Branches(block.attn.qkv, tasks, rank)
    return Classifier(backbone, backbone.num_features)  # type: ignore[arg-type]
