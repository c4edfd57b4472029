"""SD-LoRA for Avalanche."""
