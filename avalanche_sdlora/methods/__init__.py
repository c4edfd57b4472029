"""Methods to compare with, as plugins on the same adapter, head and optimizer."""

from avalanche_sdlora.methods.distillation import LwFPlugin
from avalanche_sdlora.methods.inflora import InfLoRAPlugin
from avalanche_sdlora.methods.lora import CLoRAPlugin, LoRAPlugin, NLoRAPlugin, OLoRAPlugin

__all__ = ["CLoRAPlugin", "InfLoRAPlugin", "LoRAPlugin", "LwFPlugin", "NLoRAPlugin", "OLoRAPlugin"]
