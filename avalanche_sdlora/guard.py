"""Stops training when the loss is no longer finite, and puts the last good parameters back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class FiniteLossGuard:
    """Watches the loss of one experience.

    The parameters are copied at the first iteration of each epoch; a copy counts as good once the loss computed with
    it was finite. On the CPU the error is raised at once; elsewhere at the end of the epoch, since looking
    earlier would make every step wait for the device. Either way it names the iteration at which it happened.

    Args:
        parameters: What trains now.
        experience: Its name, for the message.
        good: The last good state, if it is not the present one.
    """

    def __init__(self, parameters: Iterable[Tensor], experience: str, good: list[Tensor] | None = None) -> None:
        self.parameters = list(parameters)
        self.experience = experience
        self.good = self.candidate = self._copy()
        if good is not None:
            self.good = [g.to(p.device) for g, p in zip(good, self.parameters, strict=True)]
        self.first_bad = torch.full((), -1, dtype=torch.long, device=self.parameters[0].device)

    @torch.no_grad()
    def observe(self, loss: Tensor, epoch: int, iteration: int) -> None:
        """Looks at the loss of an iteration (both numbers from 0) before its backward pass.

        Raises:
            FloatingPointError: It is NaN or infinite; the parameters are back in their last good state.
        """
        if iteration == 0:
            self.candidate = self._copy()
        bad = ~torch.isfinite(loss.detach())
        self.first_bad = torch.where((self.first_bad < 0) & bad, iteration, self.first_bad)
        if loss.device.type == "cpu":
            self.check(epoch)

    @torch.no_grad()
    def check(self, epoch: int) -> None:
        """At the end of an epoch at the latest; raises like :meth:`observe`."""
        iteration = int(self.first_bad)
        if iteration != 0:
            self.good = self.candidate
        if iteration < 0:
            return
        torch._foreach_copy_(self.parameters, self.good)
        raise FloatingPointError(
            f"the loss is NaN or infinite in experience {self.experience}, epoch {epoch}, iteration {iteration} "
            "(counted from 0). The model holds the last good state, from the beginning of an epoch. A lower learning "
            "rate, a gradient clip, or inputs without NaN would help"
        )

    def _copy(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]
