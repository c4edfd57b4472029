"""The fused projection of torch's own attention, which is a parameter of its module and no layer."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from avalanche_sdlora.adapter.linear import SDLoRALinear

#: The name under which the fused projection of an ``nn.MultiheadAttention`` is adapted.
IN_PROJ = "in_proj"


class SDLoRAMultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` that finds its ``in_proj_weight`` and ``in_proj_bias`` in an adapted layer.

    Torch reads both as attributes wherever it uses them, the fast paths of inference included, so that its own code
    computes with the adapted weight. Modules take this class while they are adapted, and keep their identity.
    """

    in_proj: SDLoRALinear

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """``(3 d, d)``, rows [query | key | value], in force."""
        return self.in_proj.weight

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """``(3 d,)``, frozen."""
        return self.in_proj.bias


def in_projection(attention: nn.MultiheadAttention) -> nn.Linear:
    """A layer that holds the very parameters of the fused projection."""
    weight = attention.in_proj_weight
    out_features, in_features = weight.shape
    linear = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=False, device="meta", dtype=weight.dtype)
    linear.weight = weight
    linear.register_parameter("bias", attention._parameters["in_proj_bias"])
    return linear


def put_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts ``layer`` where ``name`` is in ``model``, in place of a plain or an adapted one.

    Args:
        model: Changed in place.
        name: Of a layer; or that of an ``nn.MultiheadAttention`` followed by ``.in_proj``.
        layer: An adapted layer, or a plain ``nn.Linear``.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(parent, nn.MultiheadAttention) or name.rpartition(".")[2] != IN_PROJ:
        setattr(parent, name.rpartition(".")[2], layer)  # nn.Module.set_submodule, which torch has from 2.5 on
        return
    for fused in ("in_proj_weight", "in_proj_bias"):
        parent._parameters.pop(fused, None)
    parent._modules.pop(IN_PROJ, None)
    if isinstance(layer, SDLoRALinear):
        parent.__class__ = SDLoRAMultiheadAttention
        parent.add_module(IN_PROJ, layer)
    else:
        parent.__class__ = nn.MultiheadAttention
        parent.register_parameter("in_proj_weight", cast(nn.Parameter, layer.weight))
        parent.register_parameter("in_proj_bias", cast("nn.Parameter | None", layer.bias))
