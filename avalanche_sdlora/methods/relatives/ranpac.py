"""RanPAC with first-session adaptation, as published."""

from __future__ import annotations

from typing import Any

from avalanche_sdlora.config import RANPAC
from avalanche_sdlora.methods.lora import LoRAPlugin


class RanPACPlugin(LoRAPlugin):
    """RanPAC (McDonnell et al., NeurIPS 2023, arXiv 2307.02251): the first task adapts, later ones solve a head.

    The first task trains one direction as LoRA does; the paper lets AdaptFormer, SSF or prompts do this. From the
    second on no step is made: features stay, and the head ``"random_ridge"`` of the config, random ReLU units with
    ridge regression, adds up its statistics. It chooses its penalty in its own way
    (:class:`avalanche_sdlora.heads.closed_form.ClosedFormHead`); the paper's expansion is 10000.
    """

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes.

        Raises:
            ValueError: A setting of the model is another than ``avalanche_sdlora.config.RANPAC`` says.
        """
        super().before_training(strategy, **kwargs)
        for name, value in RANPAC.items():
            if (own := getattr(strategy.model.config, name)) != value:
                raise ValueError(f"{name}={own!r} with {type(self).__name__}: expected {value!r}")

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Leaves every epoch after the first task's out."""
        if int(strategy.model.experiences) > 1:
            strategy.stop_training()
