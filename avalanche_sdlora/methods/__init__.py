"""Methods to compare with, as plugins on the same adapter, head and optimizer."""

from avalanche_sdlora.methods.clora import CLoRAPlugin
from avalanche_sdlora.methods.inflora import InfLoRAPlugin
from avalanche_sdlora.methods.lora import LoRAPlugin
from avalanche_sdlora.methods.lwf import LwFPlugin
from avalanche_sdlora.methods.nlora import NLoRAPlugin
from avalanche_sdlora.methods.olora import OLoRAPlugin

__all__ = ["CLoRAPlugin", "InfLoRAPlugin", "LoRAPlugin", "LwFPlugin", "NLoRAPlugin", "OLoRAPlugin"]
