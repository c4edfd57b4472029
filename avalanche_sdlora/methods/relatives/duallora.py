"""DualLoRA: an update that leaves old features alone, and one that is scaled by how near a sample is to its task."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from avalanche_sdlora.adapter.linear import SDLoRALinear, adapters_of, projections_of
from avalanche_sdlora.adapter.projection import Projection
from avalanche_sdlora.methods.inputs import input_moments
from avalanche_sdlora.methods.relatives.relative import HookedPlugin
from avalanche_sdlora.methods.subspace import check_threshold, extend, free_rows


class DualLoRAPlugin(HookedPlugin):
    """DualLoRA (Chen et al., arXiv 2411.00623): an orthogonal and a residual update, and a memory that scales.

    Of the columns of a direction the first half is the orthogonal update: its rows of ``A`` lie outside the subspace of
    earlier tasks' inputs, as InfLoRA designs them. The other half is the residual one: its rows are the strongest
    inputs of the task that the first half leaves out, those of earlier tasks among them. ``A`` stays as designed, and
    ``B`` trains.

    In ``strategy.eval`` the residual update of task ``k`` is scaled in each layer, for each sample, by::

        min(1, e_k(x) / e_k),   e_k(x) = |A_k x|^2 / (|a|^2 |x|^2) over the sample's tokens

    the share of the sample's energy in the task's rows, of length ``|a|``, beside the task's mean ``e_k``. A scale that
    depends on the sample cannot be part of a weight: **the evaluated model cannot be merged**, and a file or
    ``model(x)`` outside ``strategy.eval`` has every scale 1. The abstract and a summary of the paper were read, not its
    equations: the halves, the design and the scale are chosen here, and its prediction of tasks is left out.

    Args:
        threshold: Share of a task's energy that is protected, above 0 and at most 1; InfLoRA's 0.95.

    Raises:
        ValueError: ``threshold`` is out of range; or a direction of rank 1 would begin, a setting would mix the
            columns of directions, or the head is not trained and would learn features that are not those evaluated.
    """

    without: ClassVar[tuple[str, ...]] = ("energy", "rank_budget", "kd_tolerance")

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = check_threshold(threshold)
        #: For each adapted layer, orthonormal columns ``(in, k)`` that span the protected subspace.
        self.bases: dict[str, Tensor] = {}
        #: For each adapted layer and task, the mean share ``e_k``.
        self.shares: dict[str, list[float]] = {}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes the magnitudes and ``A``.

        Raises:
            ValueError: A setting of the model does not suit the method.
        """
        super().before_training(strategy, **kwargs)
        config, layers = strategy.model.config, len(adapters_of(strategy.model.backbone))
        if config.head != "linear":
            raise ValueError(
                f"head={config.head!r} with DualLoRAPlugin: it would learn features without their scale; use 'linear'"
            )
        if min(config.schedule.rank(config.schedule.tasks[-1][0], i, layers) for i in range(layers)) < 2:
            raise ValueError(f"rank={config.rank} with DualLoRAPlugin: expected at least 2 in every layer")
        for p in projections_of(strategy.model):
            p.A.requires_grad_(False)

    def begin(self, strategy: Any, projections: list[Projection], num_workers: int) -> None:
        """Designs ``A`` from the task's inputs."""
        task = int(strategy.model.experiences)
        for name, moment in input_moments(strategy, num_workers).items():
            basis, total = self.bases.get(name, moment[:, :0]), float(moment.trace())
            shares = self.shares.setdefault(name, [])
            del shares[task - 1 :]  # of an experience that has been taken back
            for p in projections_of(strategy.model.backbone.get_submodule(name)):
                half = len(p.A) - _residual(len(p.A))
                first = free_rows(moment, basis, half)
                second = free_rows(moment, torch.linalg.qr(first.T).Q, len(p.A) - half)
                p.A.copy_(torch.cat([first, second]))
            shares.append(3 * float((second @ moment * second).sum()) / total if total else 1.0)

    def after_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Protects the inputs that the task ended with."""
        for name, moment in input_moments(strategy, num_workers).items():
            self.bases[name] = extend(self.bases.get(name, moment[:, :0]), moment, self.threshold)

    # -- the scale -------------------------------------------------------------------------------------------------

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the scale into the adapted layers."""
        self.hook_layers(strategy.model, self._scaled)

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Takes the scale out again."""
        self.unhook_layers()

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Takes out the scale of an evaluation that an error has ended, and prepares the directions that begin."""
        self.unhook_layers()
        super().before_training_exp(strategy, num_workers, **kwargs)

    def _scaled(self, name: str) -> Any:
        def scale(adapter: SDLoRALinear, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            x = inputs[0]  # (n, ..., in)
            y = y.clone()
            energy = x.square().flatten(1).sum(1)  # (n,)
            for p, update in zip(projections_of(adapter), adapter.updates()):
                A, B = torch.cat([p.bank_A, p.A]), torch.cat([p.bank_B, p.B], dim=1) * update.c
                for task, share in enumerate(self.shares.get(name, [])):
                    columns = (p.owner == task).nonzero().flatten()
                    columns = columns[len(columns) - _residual(len(columns)) :]
                    rows = A[columns]
                    z = x @ rows.T  # (n, ..., r)
                    lengths = rows.square().sum(1).amax() * energy
                    own = z.square().flatten(1).sum(1) / lengths.clamp(min=torch.finfo(y.dtype).tiny)
                    gate = (own / max(share, math.ulp(1.0))).clamp(max=1).view(-1, *[1] * (y.dim() - 1))
                    y[..., p.start : p.stop] += (gate - 1) * (z @ B[:, columns].T)
            return y

        return scale


def _residual(rank: int) -> int:
    return rank // 2
