"""SD-LoRA in Avalanche: the plugin and the strategy, with their optimizer, loss, checks and metrics."""
