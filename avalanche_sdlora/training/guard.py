"""How a failed experience leaves no trace: a watch on loss and steps, and the state to return to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_sdlora.learned import learned_state
from avalanche_sdlora.training.optim import fill_optimizer

_UNCHANGED = "closed_form."  # inside an experience, a head in closed form changes at the end of it only


class FiniteGuard:
    """Watches the loss and the optimizer's steps of one experience.

    On the CPU one that is not finite is an error at once; elsewhere at the end of the epoch, since looking earlier
    would make every step wait for the device. Either way the error names the iteration at which it happened.

    Args:
        experience: Its name, for the message.
        device: Where the loss is computed.
    """

    def __init__(self, experience: str, device: torch.device) -> None:
        self.experience = experience
        self.first_bad = torch.full((), -1, dtype=torch.long, device=device)

    @torch.no_grad()
    def observe(self, finite: Tensor, epoch: int, iteration: int) -> None:
        """Notes whether the loss or the step of an iteration (both numbers from 0) is ``finite``, a scalar.

        Raises:
            FloatingPointError: It is not.
        """
        self.first_bad = torch.where((self.first_bad < 0) & ~finite, iteration, self.first_bad)
        if finite.device.type == "cpu":
            self.check(epoch)

    def check(self, epoch: int) -> None:
        """Look at what has not been looked at, at the end of an epoch at the latest; raises like :meth:`observe`."""
        iteration = int(self.first_bad)
        if iteration >= 0:
            raise FloatingPointError(
                f"the loss or a step is NaN or infinite in experience {self.experience}, epoch {epoch + 1}, iteration "
                f"{iteration + 1}. The model is as it was before this experience. A lower learning rate, a gradient "
                "clip, or inputs without NaN would help"
            )


class RestorePoint:
    """The state before an experience: learned tensors, the criterion's classes, and the optimizer's state.

    Args:
        model: The model.
        criterion: The loss.
        optimizer: The optimizer.
        keep_state: Whether the optimizer keeps its state from task to task; otherwise every task begins with a fresh
            one.
    """

    def __init__(self, model: Any, criterion: Any, optimizer: Any, keep_state: bool) -> None:
        self.learned = _copied(model, _UNCHANGED)
        self.begun: dict[str, Tensor] = {}
        self.criterion = {name: t.clone() for name, t in criterion.state_dict().items()}
        held = optimizer.state_dict()["state"] if keep_state else {}
        self.optimizer = {
            i: {key: value.clone() if isinstance(value, Tensor) else value for key, value in entry.items()}
            for i, entry in held.items()
        }

    def keep_begun(self, model: Any) -> None:
        """Remembers what the model is once the experience has begun, before it is trained, for :meth:`begin_again`."""
        self.begun = _copied(model, _UNCHANGED, "head.")

    def begin_again(self, model: Any) -> None:
        """Takes back what training has changed but the linear head, so that the function is that of before."""
        model.load_state_dict(self.begun, strict=False)

    def restore(self, model: Any, criterion: Any, optimizer: Any) -> None:
        """Puts the state back; the optimizer holds the parameters that trained then."""
        model.load_state_dict(self.learned, strict=False)
        if model.closed_form is not None:
            model.closed_form.abandon()
        criterion.load_state_dict(self.criterion)
        if int(model.experiences):
            fill_optimizer(optimizer, model.trainable_groups())
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": self.optimizer, "param_groups": groups})
        else:  # nothing has been learned: nothing trains yet
            fill_optimizer(optimizer, {name: [] for name in model.trainable_groups()})

    def state(self) -> dict[str, Any]:
        """The state as tensors by name, for :meth:`from_state`."""
        return {
            "learned": self.learned,
            "begun": self.begun,
            "criterion": self.criterion,
            "optimizer": self.optimizer,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RestorePoint:
        """The state that another process has saved."""
        point = cls.__new__(cls)
        for name in ("learned", "begun", "criterion", "optimizer"):
            setattr(point, name, state[name])
        return point


def _copied(model: Any, *without: str) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in learned_state(model).items() if not name.startswith(without)}
