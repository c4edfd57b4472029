"""Answers to arguments that a strategy does not have, for whoever knows them from elsewhere."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from avalanche_sdlora.config import SDLoRAConfig

_OPTIMIZER = "optimizer=functools.partial(torch.optim.{kind}, {settings})"
_OF_THE_OPTIMIZER = {"lr": "lr", "learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
_OTHER_NAMES = {
    "epochs": "train_epochs",
    "n_epochs": "train_epochs",
    "num_epochs": "train_epochs",
    "batch_size": "train_mb_size",
    "train_batch_size": "train_mb_size",
    "mb_size": "train_mb_size",
    "eval_batch_size": "eval_mb_size",
    "backbone": "model",
    "net": "model",
    "loss": "criterion",
    "loss_fn": "criterion",
    "dtype": "precision",
}
_OF_THE_CONFIG = {
    "r": "rank",
    "lora_rank": "rank",
    "lora_r": "rank",
    "lora_alpha": "magnitude_init",
    "alpha": "magnitude_init",
    "target_modules": "targets",
}


def answer(strategy: type[Any], guesses: Mapping[str, Any]) -> None:
    """Refuses what is no argument of a strategy, and says what to write instead.

    Args:
        strategy: The class that was given them.
        guesses: Keyword arguments.

    Raises:
        TypeError: There is one; the message says what to write in its place.
    """
    inits = [
        inspect.signature(vars(kind)["__init__"]).parameters.values()
        for kind in strategy.__mro__
        if "__init__" in vars(kind)
    ]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = {p.name for parameters in inits for p in parameters if p.kind not in variable} - {"self"}
    for name, value in guesses.items():
        if name not in known:
            raise TypeError(f"{strategy.__name__} has no argument {name!r}; {_advice(name, value, known)}")


def _advice(name: str, value: Any, known: Iterable[str]) -> str:
    settings = [field.name for field in dataclasses.fields(SDLoRAConfig)]
    if name in _OF_THE_OPTIMIZER:
        given = f"{_OF_THE_OPTIMIZER[name]}={value!r}"
        rate = "" if given.startswith("lr=") else "lr=0.01, "
        more = "" if given.startswith("momentum=") else ", momentum=0.9"
        return f"write {_OPTIMIZER.format(kind='SGD', settings=rate + given + more)}"
    if name in ("autocast", "amp", "bfloat16", "bf16", "fp16", "mixed_precision"):
        return "write precision='bfloat16', or precision='auto'"
    if name in _OTHER_NAMES:
        return f"write {_OTHER_NAMES[name]}={value!r}"
    if name in settings or name in _OF_THE_CONFIG:
        return f"write config=SDLoRAConfig({_OF_THE_CONFIG.get(name, name)}={value!r})"
    near = difflib.get_close_matches(name, [*known, *_OTHER_NAMES, *_OF_THE_OPTIMIZER], n=1)
    if near and near[0] not in known:
        return _advice(near[0], value, known)
    if near:
        return f"did you mean {near[0]}?"
    near = difflib.get_close_matches(name, settings, n=1)
    if near:
        return f"did you mean config=SDLoRAConfig({near[0]}=...)?"
    return f"it takes {', '.join(sorted(known))}"
