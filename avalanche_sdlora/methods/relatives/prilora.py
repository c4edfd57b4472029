"""PRILoRA: elements of ``A`` that matter little are set to 0 now and then."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.methods.relatives.relative import HookedPlugin


def pruned(A: Tensor, norms: Tensor, share: float) -> Tensor:
    """``A (r, in)`` with 0 for the share of each row's elements that have the least ``|A_ij| norms_j``.

    Args:
        A: ``(r, in)``.
        norms: Norm of each input, ``(in,)``.
        share: From 0 to below 1; rounded down to whole elements.
    """
    k = int(share * A.shape[1])
    least = (A.abs() * norms).argsort(dim=1)[:, :k]
    return A.scatter(1, least, 0.0)


class PRILoRAPlugin(HookedPlugin):
    """PRILoRA (Benedek and Wolf, arXiv 2401.11316): ``A`` is pruned while it trains; ranks rise with depth.

    Every ``every`` steps :func:`pruned` sets a share of each row of ``A`` to 0 by size and the moving average of the
    inputs' norms. Pruned elements may grow again before the next pruning; that they do, and that rows are pruned apart,
    is chosen here, since the equations of the paper could not be read. Its ranks, 4 at the first layer to 12 at the
    last, are the setting ``RankSchedule.constant(8, (0.5, 1.5))`` of the adapter.

    Args:
        share: Of the elements that are pruned, at least 0 and below 1; the paper's 0.5.
        every: Steps from one pruning to the next; the paper's 40.
        momentum: Of the moving average, at least 0 and below 1; chosen here.

    Raises:
        ValueError: An argument is out of range; or, while training, an adapted layer is never called.
    """

    def __init__(self, share: float = 0.5, every: int = 40, momentum: float = 0.9) -> None:
        super().__init__()
        for name, value in (("share", share), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected a number of at least 0 and below 1")
        if type(every) is not int or every < 1:
            raise ValueError(f"every={every!r}: expected a whole number of at least 1")
        self.share = share
        self.every = every
        self.momentum = momentum
        #: For each adapted layer the moving average of the norms of its inputs, ``(in,)``.
        self.norms: dict[str, Tensor] = {}

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Listens to the inputs of the adapted layers."""
        self.hook_layers(strategy.model, self._listener, before=True)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Listens no more."""
        self.unhook_layers()

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Prunes, every so many steps."""
        made, _ = self.steps(strategy)
        if (made + 1) % self.every:
            return
        for name, adapter in adapters_of(strategy.model.backbone).items():
            if name not in self.norms:
                raise ValueError(f"the model never calls {name!r} but reads its weight: no inputs to see")
            for p in projections_of(adapter):
                p.A.copy_(pruned(p.A, self.norms[name].to(p.A), self.share))

    def _listener(self, name: str) -> Any:
        def listen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if torch.is_grad_enabled():
                norm = torch.linalg.norm(inputs[0].detach().float().flatten(0, -2), dim=0)  # (in,)
                before = self.norms.get(name, norm).to(norm)
                self.norms[name] = self.momentum * before + (1 - self.momentum) * norm

        return listen
