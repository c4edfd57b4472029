"""SD-LoRA as an Avalanche strategy: a model, an optimizer and the plugin, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from avalanche_sdlora import processes
from avalanche_sdlora.backbones import create_backbone
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.training.optim import OptimizerFactory, default_optimizer, make_optimizer
from avalanche_sdlora.training.plugin import SDLoRAPlugin


class SDLoRAStrategy(SupervisedTemplate):
    """SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198) on a pre-trained vision transformer.

    Args:
        model: A timm model name, created with its pre-trained weights; or an ``nn.Module``, adapted in place.
        config: Settings of the method.
        optimizer: An optimizer, the Avalanche way; or a factory that is called once with a list of parameter groups
            named "directions", "magnitudes" and "head", e.g. ``functools.partial(torch.optim.Adam, lr=1e-3)``.
            Default: :func:`avalanche_sdlora.training.optim.default_optimizer` (SGD, learning rate 0.01, momentum 0.9).
        criterion: Applied to the logits of the current experience's classes.
        autocast: Precision of the forward pass, e.g. ``torch.bfloat16``; None: float32.
        reset_optimizer_state: A fresh optimizer state for every task, as published.
        check_stream: Refuse a stream whose split seems to have lost classes by mistake.
        train_mb_size: Samples in a training batch, over all processes together: each sees its part of the batch.
        train_epochs: Epochs over each experience.
        eval_mb_size: Samples in an evaluation batch, over all processes together; None: as in training.
        device: Where to compute; ``"cuda"`` in several processes, the GPU of each.
        plugins: Other Avalanche plugins; they see the model of the current experience.
        evaluator: Avalanche's evaluation plugin; None for no metrics.
        eval_every: See ``SupervisedTemplate``.
        peval_mode: See ``SupervisedTemplate``.
        **kwargs: Further arguments of ``SupervisedTemplate``.

    Raises:
        ValueError: An unknown or unsuitable model, target or optimizer; the message names the argument.
    """

    def __init__(
        self,
        *,
        model: str | nn.Module,
        config: SDLoRAConfig | None = None,
        optimizer: Optimizer | OptimizerFactory | None = None,
        criterion: Callable[[Any, Any], torch.Tensor] | None = None,
        autocast: torch.dtype | None = None,
        reset_optimizer_state: bool = True,
        check_stream: bool = True,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **kwargs: Any,
    ) -> None:
        processes.start()  # before a default evaluator makes loggers
        plugin = SDLoRAPlugin(config, autocast, reset_optimizer_state, check_stream)
        if optimizer is None:
            optimizer = default_optimizer
        if not isinstance(optimizer, Optimizer):
            optimizer = make_optimizer(optimizer)
        if not isinstance(model, SDLoRAModel):
            backbone = create_backbone(model) if isinstance(model, str) else model
            model = SDLoRAModel(backbone, config)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[plugin, *(plugins or [])],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
            **kwargs,
        )
        plugin.attach(self)  # a misfit is refused here, not at the first train()
