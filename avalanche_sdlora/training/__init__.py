"""SD-LoRA in Avalanche: the plugin and the strategy, and what they need while a stream is learned."""
