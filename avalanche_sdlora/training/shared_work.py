"""What several processes do for one strategy: each its part of every batch, and all of them the same step."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation import PluginMetric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from avalanche_sdlora import stream
from avalanche_sdlora.processes import (
    all_sum,
    broadcast,
    check_same,
    first_object,
    gather_rows,
    is_first,
    local_rank,
    several,
    size,
)
from avalanche_sdlora.training.compatibility import check_processes
from avalanche_sdlora.training.loading import Randomness, SharedLoader
from avalanche_sdlora.training.randomness import random_state, set_random_state


class SharedWork(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Lets several processes train one model; :class:`avalanche_sdlora.SDLoRAPlugin` puts it before itself.

    Every process has the whole model and sees its part of each batch (:class:`SharedLoader`). The criterion gives each
    the loss whose mean over the processes is that of the batch (:class:`CurrentClassesLoss`), and after the backward
    pass one sum over all processes makes of their gradients and losses those of the batch. Metrics then see the
    outputs and targets of the whole batch, in every process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._randomness = Randomness()

    @classmethod
    def join(cls, strategy: Any) -> None:
        """Makes the processes alike before anything is learned: model, random generators and loggers.

        Raises:
            RuntimeError: The processes do not have the same model.
        """
        _silence(strategy)
        strategy.plugins.insert(0, cls())
        tensors = {**dict(strategy.model.named_parameters()), **dict(strategy.model.named_buffers())}
        shapes = repr([(name, tuple(t.shape), t.dtype) for name, t in tensors.items()])
        check_same(hashlib.sha256(shapes.encode()).hexdigest()[:12], "model: the checksum of its names and shapes")
        broadcast(tensors.values())
        set_random_state(first_object(random_state()))

    # -- training ------------------------------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Random numbers are drawn alike, whatever a script has drawn in one process only."""
        set_random_state(first_object(random_state()))

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Refuses an experience that differs from process to process.

        Raises:
            RuntimeError: It does.
        """
        check_same(stream.key(strategy.experience), "the experience (a stream is made with a seed)")

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """The loader, which plugins may have replaced, is shared out."""
        if not isinstance(strategy.dataloader, SharedLoader):
            strategy.dataloader = SharedLoader(strategy.dataloader, self._randomness)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """The criterion is told whether the samples count."""
        strategy._criterion.counts = strategy.dataloader.part.counts

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Gradients and loss become those of the whole batch."""
        parameters = [p for group in strategy.optimizer.param_groups for p in group["params"]]
        strategy.loss = average_gradients(parameters, strategy.loss)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Metrics see the whole batch."""
        if any(map(_looks_at_training, strategy.evaluator.metrics)):
            _gather(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """An epoch that was left early has ended, too."""
        self._randomness.end()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The loader is shared out; its order, which changes no figure, is that of the images."""
        if hasattr(strategy.dataloader, "loader_kwargs"):
            strategy.dataloader.loader_kwargs["shuffle"] = False
        strategy.dataloader = SharedLoader(strategy.dataloader, Randomness())

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Metrics see the whole batch, and its loss."""
        _gather(strategy)
        strategy.loss = strategy.criterion()


def check_shared(strategy: Any) -> None:
    """Refuses what cannot be shared by several processes; in a program of one process, nothing.

    Raises:
        ValueError: A plugin or the strategy is not made for several processes, or the device is not this process's own.
    """
    if not several():
        return
    check_processes(strategy)
    device = strategy.device
    if device.type == "cuda" and device.index not in (None, local_rank()):
        raise ValueError(
            f"device={str(device)!r} in the process with LOCAL_RANK={local_rank()}: say device='cuda', which is the "
            "GPU of each process"
        )


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
    """Puts the mean of all processes' gradients in place of each one's own, by one sum of one flat tensor.

    What travels are the elements of all parameters, one more for each of them, and the loss. A parameter that has a
    gradient in no process is left without.

    Args:
        parameters: Those that train; equal in all processes.
        loss: This process's.

    Returns:
        The mean of the losses, of the shape of ``loss``. It is not finite where that of any process is not.
    """
    here = [p.grad is not None for p in parameters]
    parts = [loss.detach().flatten(), loss.new_tensor(here)]
    parts += [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    mean = all_sum(torch.cat(parts)) / size()
    loss_mean, anywhere, *gradients = mean.split([part.numel() for part in parts])
    # Only who lacks a gradient must know whether another process has it; on a GPU reading waits for the device.
    wanted = here if all(here) else anywhere.tolist()
    for p, has, gradient in zip(parameters, wanted, gradients):
        if has:
            p.grad = gradient.view_as(p).to(p.dtype)
    return loss_mean.view_as(loss).to(loss.dtype)


def _gather(strategy: Any) -> None:
    """Puts the whole batch's outputs, targets and task labels in place of this process's; images stay its own."""
    own = slice(None) if strategy.dataloader.part.counts else slice(0, 0)
    images, *labels = strategy.mbatch
    strategy.mb_output, *labels = gather_rows(*(t[own] for t in (strategy.mb_output, *labels)))
    strategy.mbatch = [images, *labels]


def _looks_at_training(metric: Any) -> bool:
    """Whether a metric reads the batches of training."""
    reads = type(metric).after_training_iteration is not PluginMetric.after_training_iteration
    return reads and getattr(metric, "_mode", "train") == "train"


def _silence(strategy: Any) -> None:
    """Only the first process has loggers; what the others' have begun to write is taken away."""
    if is_first():
        return
    for logger in strategy.evaluator.loggers:
        if isinstance(writer := getattr(logger, "writer", None), SummaryWriter) and writer.file_writer is not None:
            path = Path(writer.file_writer.event_writer._file_name)
            writer.close()
            path.unlink(missing_ok=True)
    strategy.evaluator.loggers = []
