"""LoRA-P&M: each task is learned under perturbations along its own update, which is then merged by a coefficient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from avalanche_sdlora.adapter.functional import all_factors
from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.methods.relatives.relative import RelativePlugin


def fisher(strategy: Any, images: int, batch_size: int = 8) -> list[Tensor]:
    """Diagonal of the empirical Fisher information of each adapted block of weights, for the present model and task.

    It is the mean over images of the squared gradient of the loss of one image.

    Args:
        strategy: Its model, criterion, device and ``adapted_dataset`` are used; the images in evaluation transforms.
        images: The number of images at most, evenly spaced over the data.
        batch_size: Images at once; for each a gradient ``(out, in)`` is held.

    Returns:
        For each projection of the model, in order, ``(out, in)``, float32.

    Raises:
        ValueError: An adapted layer is never called.
    """
    model, seen = strategy.model, dict[str, tuple[Tensor, Tensor]]()
    adapters = adapters_of(model.backbone)

    def listener(name: str) -> Any:
        def listen(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = inputs[0].detach(), output

        return listen

    data = strategy.adapted_dataset
    chosen = torch.linspace(0, len(data) - 1, min(images, len(data))).round().long().tolist()
    sums = [torch.zeros(len(p.B), p.A.shape[1], device=p.A.device) for p in projections_of(model)]
    handles = [adapter.register_forward_hook(listener(name)) for name, adapter in adapters.items()]
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            for x, y, *rest in DataLoader(data.eval().subset(chosen), batch_size=batch_size):
                labels = rest[0].to(strategy.device) if rest and model.config.use_task_labels else None
                logits = model.eval().head(model.features(x.to(strategy.device)), labels)
                if missing := adapters.keys() - seen.keys():
                    raise ValueError(f"the model never calls {min(missing)!r} but reads its weight: no inputs to see")
                loss = strategy._criterion(logits, y.to(strategy.device)) * len(y)  # a sum: each image has its own
                gradients = torch.autograd.grad(loss, [seen[name][1] for name in adapters])
                blocks = [
                    (p, seen[name][0].reshape(len(y), -1, p.A.shape[1]).float(), g.reshape(len(y), -1, g.shape[-1]))
                    for (name, adapter), g in zip(adapters.items(), gradients)
                    for p in projections_of(adapter)
                ]
                for total, (p, inputs, g) in zip(sums, blocks):
                    dW = g[..., p.start : p.stop].float().transpose(1, 2) @ inputs  # (n, out, in)
                    total += dW.square().sum(0)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return [total / max(1, len(chosen)) for total in sums]


class LoRAPMPlugin(RelativePlugin):
    """LoRA-P&M (Qiu et al., NeurIPS 2025, arXiv 2505.22389): train with perturbation, infer after merging.

    In each step the present update is ``1``, ``1 + epsilon`` or ``1 - epsilon`` times itself, with a third of the
    probability each: an estimate of the loss with a penalty on its curvature along the update. When the task ends, the
    update ``D_t`` is multiplied by the coefficient that makes the least of the sum of all tasks' losses, to second
    order around the solution of each, ``theta_i``::

        a_t = - sum_{i<=t} (W_{t-1} - theta_i)' F_i D_t / sum_{i<=t} D_t' F_i D_t,   theta_t = W_{t-1} + D_t

    with the diagonal of the empirical Fisher information ``F_i`` (:func:`fisher`) in place of the Hessian matrix. One
    coefficient serves all layers, cut to 0 to 1, for which the combination is convex. Of the paper's equations a
    summary was read. Of earlier tasks the sums of ``F_i`` and of ``F_i theta_i`` are all that the formula needs: twice
    the size of the adapted weights, whatever the number of tasks. The heads are not merged.

    Args:
        epsilon: The paper's 0.5; at least 0 and below 1.
        images: Of a task, for the Fisher information; chosen here.
        seed: Draws the perturbations.

    Raises:
        ValueError: An argument is out of range; or, at a task's end, an adapted layer was never called.
    """

    def __init__(self, epsilon: float = 0.5, images: int = 256, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon={epsilon!r}: expected a number of at least 0 and below 1")
        if type(images) is not int or images < 1:
            raise ValueError(f"images={images!r}: expected a whole number of at least 1")
        self.epsilon = epsilon
        self.images = images
        self._generator = torch.Generator().manual_seed(seed)
        #: ``a_t`` of each task.
        self.coefficients: list[float] = []
        self._fishers: list[Tensor] = []  # for each projection sum_i F_i (out, in)
        self._pulls: list[Tensor] = []  # and sum_i F_i theta_i, where theta_i counts from the frozen weight

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Takes back the perturbation of a step that an error has ended."""
        self._times(strategy, 1.0)
        super().before_training_exp(strategy, num_workers, **kwargs)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Perturbs the present update."""
        z = int(torch.randint(-1, 2, (), generator=self._generator))
        self._times(strategy, 1 + self.epsilon * z)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Takes the perturbation back."""
        self._times(strategy, 1.0)

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Takes back the perturbation of a step that an error has ended."""
        self._times(strategy, 1.0)

    def on_direction_end(self, strategy: Any, **kwargs: Any) -> None:
        """Merges the update."""
        fishers = fisher(strategy, self.images)
        with torch.no_grad():
            self._merge(strategy, fishers)

    def _merge(self, strategy: Any, fishers: list[Tensor]) -> None:
        projections = projections_of(strategy.model)
        parts = [_parts(adapter) for adapter in adapters_of(strategy.model.backbone).values()]
        updates = [pair for pairs in parts for pair in pairs]  # (what was merged, D_t), each (out, in)
        sums = [s.to(f) for s, f in zip(self._fishers, fishers)] or [torch.zeros_like(f) for f in fishers]
        pulls = [s.to(f) for s, f in zip(self._pulls, fishers)] or [torch.zeros_like(f) for f in fishers]
        above = below = 0.0
        for (merged, D), F, S, V in zip(updates, fishers, sums, pulls):
            above += float((D * F * D).sum() - ((merged * S - V) * D).sum())
            below += float((D * (F + S) * D).sum())
        a = min(1.0, max(0.0, above / below)) if below > 0 and math.isfinite(above) else 1.0
        self.coefficients.append(a)
        self._fishers = [S + F for S, F in zip(sums, fishers)]
        self._pulls = [V + F * (merged + D) for V, F, (merged, D) in zip(pulls, fishers, updates)]
        for p in projections:
            p.B.mul_(a)

    @torch.no_grad()
    def _times(self, strategy: Any, factor: float) -> None:
        for p in projections_of(strategy.model):
            p.scale[len(p.bank_A) :] = factor


def _parts(adapter: Any) -> list[tuple[Tensor, Tensor]]:
    """Of each projection of an adapted layer the sum of the frozen updates and the present one, ``(out, in)`` each."""
    pairs = []
    for p, update in zip(projections_of(adapter), adapter.updates()):
        R = len(p.bank_A)
        A, B = all_factors(update)
        B = B * update.c
        pairs.append((B[:, :R] @ A[:R], B[:, R:] @ A[R:]))
    return pairs
