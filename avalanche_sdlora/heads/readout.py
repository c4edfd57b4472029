"""What a head in closed form reads of a vision transformer: its features, and tokens of earlier blocks beside them.

The last features are made for the classes of the pre-training. Earlier blocks know more of what sets other images apart
(Ahrens, Lehmann, Wermter et al., *Read Between the Layers*, TMLR 2024, arXiv 2312.08888, who read class tokens of the
last blocks), and adapting moves them less.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

#: How deep the blocks lie that are read, as a share of all blocks.
DEPTHS = (0.5, 0.75, 1.0)


def can_read_layers(backbone: nn.Module) -> bool:
    """Whether blocks of ``backbone`` can be read: a plain vision transformer of timm with at least four."""
    return isinstance(backbone, VisionTransformer) and len(backbone.blocks) >= 4


def parts_of_readout(backbone: Any) -> int:
    """Number of vectors that :func:`read_layers` puts one after another, all as wide as a token."""
    tokens = 2 if backbone.num_prefix_tokens else 1
    return 1 + tokens * len(DEPTHS) - (backbone.global_pool in ("token", "avg"))


def read_layers(backbone: Any, x: Tensor) -> Tensor:
    """The features of images and, of blocks at half, three quarters and the whole of the depth, two tokens each.

    They are the class token, where there is one, and the mean of the patch tokens, which pass through the backbone's
    last normalisation as its own features do. What the features are already is left out.

    Args:
        backbone: A model for which :func:`can_read_layers` holds, without its classifier.
        x: ``(n, 3, height, width)``.

    Returns:
        ``(n, parts * d)`` for :func:`parts_of_readout` parts of ``d`` numbers, features first.
    """
    blocks = len(backbone.blocks)
    final, tokens = backbone.forward_intermediates(
        x, indices=[round(depth * blocks) - 1 for depth in DEPTHS], return_prefix_tokens=True, output_fmt="NLC"
    )
    found = []
    for i, block in enumerate(tokens):
        patches, prefix = block if backbone.num_prefix_tokens else (block, None)
        last = i == len(DEPTHS) - 1
        if prefix is not None and not (last and backbone.global_pool == "token"):
            found.append(prefix[:, 0])
        if not (last and backbone.global_pool == "avg"):
            found.append(patches.mean(1))
    normalised = [backbone.fc_norm(backbone.norm(token)) for token in found]
    return torch.cat([backbone.forward_head(final), *normalised], dim=1)


class _Reader(nn.Module):
    """:func:`read_layers` as a module."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return read_layers(self.backbone, x)


def plain_reader(backbone: nn.Module) -> nn.Module:
    """:func:`read_layers` as a module of torch that holds the layers of ``backbone``, and nothing of this package."""

    class Tracer(fx.Tracer):  # local, so that torch does not keep it with the module
        """Follows the backbone's own methods, and takes each of its layers as a whole."""

        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    reader = _Reader(backbone)
    graph = Tracer().trace(reader)
    for node in graph.nodes:
        node.type = None  # from an annotation, whose text torch 2.4 cannot save
    return fx.GraphModule(reader, graph, type(backbone).__name__)
