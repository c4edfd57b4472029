"""Low-rank relatives of SD-LoRA, to compare with: one file for each, on its adapter, head and optimizer.

Each plugin stands after :class:`avalanche_sdlora.SDLoRAPlugin`, as those of ``avalanche_sdlora.methods`` do, and
trains in one process. None of them is known to be better than the default.

At LoRA's learning rate not all of them need LoRA's factor ``alpha / r``, which is ``SDLoRAConfig.magnitude_init``:
RAC-LoRA and XGBLoRA, which train few columns at a time, need 3 to 4 in place of 1, and SoRA, LoRA Dropout, BeamLoRA,
PRoLoRA and LoRA-P&M at most 0.7 (``docs/methods.md`` has what was measured).
"""

from avalanche_sdlora.methods.relatives.beamlora import BeamLoRAPlugin
from avalanche_sdlora.methods.relatives.duallora import DualLoRAPlugin
from avalanche_sdlora.methods.relatives.lora_dropout import LoRADropoutPlugin
from avalanche_sdlora.methods.relatives.lora_pm import LoRAPMPlugin
from avalanche_sdlora.methods.relatives.lora_sub import LoRASubPlugin
from avalanche_sdlora.methods.relatives.prilora import PRILoRAPlugin
from avalanche_sdlora.methods.relatives.prolora import PRoLoRAPlugin
from avalanche_sdlora.methods.relatives.rac_lora import RACLoRAPlugin
from avalanche_sdlora.methods.relatives.ranpac import RanPACPlugin
from avalanche_sdlora.methods.relatives.recycle import RecyclePlugin
from avalanche_sdlora.methods.relatives.sora import SoRAPlugin
from avalanche_sdlora.methods.relatives.xgblora import XGBLoRAPlugin

__all__ = [
    "BeamLoRAPlugin",
    "DualLoRAPlugin",
    "LoRADropoutPlugin",
    "LoRAPMPlugin",
    "LoRASubPlugin",
    "PRILoRAPlugin",
    "PRoLoRAPlugin",
    "RACLoRAPlugin",
    "RanPACPlugin",
    "RecyclePlugin",
    "SoRAPlugin",
    "XGBLoRAPlugin",
]
