"""Studies beside the accuracy of methods: speed, where the time of a run goes, heads, and pre-training."""
