"""The command line: runs, recipes, comparisons and studies of SD-LoRA and of the methods it is compared with."""

import warnings
from pathlib import Path

# Commands of version 0.1 that have another name now are found in this folder, and answer with it.
__path__.append(str(Path(__file__).with_name("moved")))

# Avalanche imports a solver that only its GEM needs, which warns where it finds none installed.
warnings.filterwarnings("ignore", message="no QP solver found")
