"""The precision of the forward pass, and which one a device computes fast in.

A command line names the precisions, so that torch is imported only where a device is asked.
"""

from __future__ import annotations

import logging
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("avalanche_sdlora")

Precision = Literal["auto", "float32", "bfloat16"]

PRECISIONS = ("auto", "float32", "bfloat16")

#: How many times longer a training step of a ViT-Ti took in emulated bfloat16 than in float32 (two cores with AVX2).
EMULATED = 5


def autocast_dtype(precision: Precision, device: str | torch.device) -> torch.dtype | None:
    """The type to which the forward pass is cast on ``device``; None for none, float32 as it is.

    A warning tells once that bfloat16 is slow on a device that has no instructions for it.

    Args:
        precision: ``"auto"``: bfloat16 where the device multiplies it natively, else float32. Weights, logits and all
            that is learned stay in float32 either way.
        device: Where to compute.

    Raises:
        ValueError: Another precision.
    """
    check_precision(precision)
    if precision == "float32":
        return None
    import torch

    native = multiplies_bfloat16(device)
    if precision == "bfloat16" and not native:
        _warn_of_emulation(torch.device(device).type)
    return torch.bfloat16 if native or precision == "bfloat16" else None


def check_precision(precision: Precision) -> None:
    """Refuses what is no precision; float16 is none, since its loss would have to be scaled.

    Raises:
        ValueError: It is none of ``"auto"``, ``"float32"`` and ``"bfloat16"``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(map(repr, PRECISIONS))}")


def multiplies_bfloat16(device: str | torch.device) -> bool:
    """Whether ``device`` has instructions for products of bfloat16; others emulate them, or lack them.

    Those of a CPU are AVX512-BF16 or AMX, or Arm's BF16 extension; those of a GPU of NVIDIA came with its compute
    capability 8.0.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_multiplies_bfloat16()


@cache
def _cpu_multiplies_bfloat16() -> bool:
    import torch

    if platform.machine() in ("x86_64", "AMD64"):
        known = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
        return any(ask() for ask in known if ask is not None)
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and " bf16" in cpuinfo.read_text(errors="replace")


@cache
def _warn_of_emulation(kind: str) -> None:
    logger.warning(
        "precision='bfloat16': this %s has no instructions for bfloat16 products and emulates them; expect steps about "
        "%d times slower than in float32. precision='auto' takes bfloat16 only where it is fast",
        kind,
        EMULATED,
    )
