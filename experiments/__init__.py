"""The command line: runs, recipes, comparisons and studies of SD-LoRA and of the methods it is compared with."""
