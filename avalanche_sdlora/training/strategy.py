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
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.training.guesses import answer
from avalanche_sdlora.training.optim import OptimizerFactory, default_optimizer, make_optimizer
from avalanche_sdlora.training.plugin import SDLoRAPlugin
from avalanche_sdlora.training.precision import Precision


class SDLoRAStrategy(SupervisedTemplate):
    """SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198) on a pre-trained vision transformer.

    The arguments of Avalanche's strategies come first and in their order, so that ``Naive(model, optimizer, criterion,
    ...)`` becomes this strategy by its name.

    Args:
        model: A timm model name, created with its pre-trained weights; or an ``nn.Module``, adapted in place.
        optimizer: An optimizer, the Avalanche way; or a factory that is called once with a list of parameter groups
            named "directions", "magnitudes" and "head", e.g. ``functools.partial(torch.optim.Adam, lr=1e-3)``.
            Default: :func:`avalanche_sdlora.training.optim.default_optimizer` (SGD with momentum).
        criterion: Applied to the logits of the current experience's classes; cross-entropy by default.
        train_mb_size: Samples in a training batch, over all processes together: each sees its part of the batch.
        train_epochs: Epochs over each experience; ``config.first_epochs`` may want more over the first.
        eval_mb_size: Samples in an evaluation batch, over all processes together; None: as in training.
        device: Where to compute; ``"cuda"`` in several processes, the GPU of each.
        plugins: Other Avalanche plugins; they see the model of the current experience.
        evaluator: Avalanche's evaluation plugin; None for no metrics.
        eval_every: See ``SupervisedTemplate``.
        peval_mode: See ``SupervisedTemplate``.
        config: Settings of the method.
        classifier: Name of the classifier in ``model``, or several; None: it is found
            (:func:`avalanche_sdlora.heads.classifier.remove_classifier`).
        precision: Precision of the forward pass: ``"float32"``, ``"bfloat16"``, or ``"auto"``, which takes bfloat16
            where the device multiplies it natively. None: as the model is, float32 unless its ``autocast`` says
            otherwise. Weights and logits are float32 always.
        reset_optimizer_state: A fresh optimizer state for every task, as published.
        check_stream: Refuse a stream whose split seems to have lost classes by mistake.
        **kwargs: Further arguments of ``SupervisedTemplate``.

    Raises:
        TypeError: An argument that there is not; the message says what to write.
        ValueError: An unknown or unsuitable model, target or optimizer; the message names the argument.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> SDLoRAStrategy:
        """Answers arguments that there are not; Avalanche, which looks next, knows no other words for them."""
        answer(cls, kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        *,  # by position, too: Avalanche gives names to what comes without one, in this order
        model: str | nn.Module,
        optimizer: Optimizer | OptimizerFactory | None = None,
        criterion: Callable[[Any, Any], torch.Tensor] | None = None,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        config: SDLoRAConfig | None = None,
        classifier: str | Sequence[str] | None = None,
        precision: Precision | None = None,
        reset_optimizer_state: bool = True,
        check_stream: bool = True,
        **kwargs: Any,
    ) -> None:
        processes.start()  # before a default evaluator makes loggers
        plugin = SDLoRAPlugin(config, precision, reset_optimizer_state, check_stream)
        if not isinstance(model, SDLoRAModel):
            model = SDLoRAModel(model, config, classifier=classifier)
        if optimizer is None:
            optimizer = default_optimizer(model.config)
        if not isinstance(optimizer, Optimizer):
            optimizer = make_optimizer(optimizer)
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
