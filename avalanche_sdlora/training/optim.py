"""The optimizer of a stream: every task brings new parameters, but the optimizer stays one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from avalanche_sdlora.config import SDLoRAConfig

#: Makes an optimizer from parameter groups named "directions", "magnitudes" and "head".
OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]

GROUPS = ("directions", "magnitudes", "head")


def default_rate(config: SDLoRAConfig) -> float:
    """The learning rate where none is given.

    0.01 where the optimizer's steps are as they are, the middle of the authors' range. 0.05 where ``config.path``
    shortens them: the bound then decides how long they are, and the rate has to be high enough for it.
    """
    return 0.01 if config.path is None else 0.05


def default_optimizer(config: SDLoRAConfig) -> OptimizerFactory:
    """SGD with momentum 0.9, :func:`default_rate` and no weight decay."""
    return partial(SGD, lr=default_rate(config), momentum=0.9)


def make_optimizer(factory: OptimizerFactory) -> Optimizer:
    """Calls ``factory`` with the three named groups, still empty: the first task fills them.

    Raises:
        ValueError: The optimizer does not keep the groups it was given.
    """
    optimizer = factory([{"params": [], "name": name} for name in GROUPS])
    if not isinstance(optimizer, Optimizer) or set(_names(optimizer)) != set(GROUPS):
        raise ValueError(
            f"optimizer={factory!r}: the factory must return a torch optimizer made from the list of parameter groups "
            "that it is given, for instance functools.partial(torch.optim.Adam, lr=1e-3)"
        )
    return optimizer


def check_groups(optimizer: Optimizer) -> None:
    """Refuses an optimizer whose groups cannot be filled with the parameters of a new task.

    Raises:
        ValueError: It has several groups without names, or wraps another optimizer, whose state nobody could renew.
    """
    inner = next((value for value in vars(optimizer).values() if isinstance(value, Optimizer)), None)
    if inner is not None:
        raise ValueError(
            f"optimizer: {type(optimizer).__name__} wraps {type(inner).__name__}, whose state of an earlier task would "
            f"stay; give the {type(inner).__name__} itself"
        )
    names = _names(optimizer)
    if len(names) > 1 and (len(names) != len(GROUPS) or set(names) != set(GROUPS)):
        raise ValueError(
            f"optimizer: {len(names)} parameter groups named {names}; give one group, or the three groups "
            f"{list(GROUPS)} (key 'name'), or a factory such as functools.partial(torch.optim.SGD, lr=0.01)"
        )


def fill_optimizer(
    optimizer: Optimizer,
    parameters: dict[str, list[nn.Parameter]],
    replaced: Iterable[tuple[Tensor, Tensor]] = (),
    reset_state: bool = True,
) -> None:
    """Makes ``optimizer`` hold exactly ``parameters``, each once; its settings per group stay.

    Args:
        optimizer: One group, or the groups of ``GROUPS``.
        parameters: The trainable parameters by group name.
        replaced: ``(old, new)`` tensors of one parameter that grew.
        reset_state: Forget all state (fresh optimizer per task, as published). Otherwise parameters that stay keep
            their state, with zeros for new rows; factored state (Adafactor) has no rows of its own and is forgotten
            where a parameter grows.
    """
    check_groups(optimizer)
    by_name = len(optimizer.param_groups) == len(GROUPS)
    # In place, as schedulers and closures may hold the lists.
    for group in optimizer.param_groups:
        group["params"][:] = parameters[group["name"]] if by_name else [p for ps in parameters.values() for p in ps]
    previous = {} if reset_state else dict(optimizer.state)
    for old, new in replaced:
        state = previous.pop(old, None)
        if state is not None and all(_grows(value, old) for value in state.values()):
            previous[new] = {key: _grown(value, old, new) for key, value in state.items()}
    optimizer.state.clear()
    optimizer.state.update({p: previous[p] for ps in parameters.values() for p in ps if p in previous})


def holds_exactly(optimizer: Optimizer, parameters: dict[str, list[nn.Parameter]]) -> bool:
    """Whether ``optimizer`` holds these parameters, by group name, and no others."""
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return sorted(held) == sorted(id(p) for ps in parameters.values() for p in ps)


class RestingRows:
    """Keeps the head's rows of other classes where they are while the optimizer makes a step.

    A row that neither competes nor receives a gradient would still move by the momentum that is left of an earlier
    experience, and by weight decay.

    Args:
        parameters: The head's weight ``(rows, d)`` and bias ``(rows,)``.
        competing: The rows of the classes that are learned.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], competing: Tensor) -> None:
        self.parameters = [p for p in parameters if len(competing) < len(p)]
        self.competing = competing
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        """Remembers the rows that are to stay."""
        self._before = []
        for p in self.parameters:
            if p.grad is not None and p.requires_grad:
                moves = (p.grad != 0).flatten(1).any(1) if p.dim() > 1 else p.grad != 0  # (rows,)
                moves[self.competing] = True
                self._before.append((p, moves, p.detach().clone()))

    @torch.no_grad()
    def after_step(self) -> None:
        """Puts them back."""
        for p, moves, before in self._before:
            p.copy_(torch.where(moves.view(-1, *[1] * (p.dim() - 1)), p, before))
        self._before = []


def _grows(value: Any, old: Tensor) -> bool:
    return not isinstance(value, Tensor) or not value.dim() or value.shape == old.shape


def _grown(value: Any, old: Tensor, new: Tensor) -> Any:
    """State of the shape of the ``old`` parameter, in the shape of the ``new`` one that begins with its rows."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    grown = torch.zeros_like(new, dtype=value.dtype)
    grown[: len(value)] = value
    return grown


def _names(optimizer: Optimizer) -> list[Any]:
    return [group.get("name") for group in optimizer.param_groups]
