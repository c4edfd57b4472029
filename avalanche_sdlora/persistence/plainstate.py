"""The state that Python objects keep in their attributes, taken as JSON and tensors and put back.

Plugins and metrics of Avalanche keep their state in plain attributes, without ``state_dict``. :class:`Taker` walks them
and collects numbers, texts, tensors and containers of these, inside objects inside objects; :class:`Putter` walks the
objects of a program that was started again and puts everything back. No object is ever made from a file's content.
"""

from __future__ import annotations

import enum
import functools
import re
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: JSON, with a one-key object for everything that JSON does not have.
Tree = Any

_PLAIN = (type(None), bool, int, float, str)
_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
_MAKE: dict[str, Callable[[Iterable[Any]], Any]] = {name: kind for kind, name in _SEQUENCES.items()}
# Parts of the program itself, which are there again when it is started with equal arguments.
_CONSTANT = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    functools.partial,
    type,
    enum.Enum,
    PurePath,
    re.Pattern,
    range,
    torch.dtype,
    torch.device,
)
_PACKED = {float: torch.float64, int: torch.int64}
_KEEP: Tree = {"keep": None}


class Taker:
    """Takes state out of objects.

    Args:
        shared: Objects that are not state of those walked, such as the strategy that they belong to.
        foreign: Types whose state cannot be taken, such as data sets.
        known: Paths of the objects that a fresh program has, from an earlier ``Taker.objects``; None: all are.

    Attributes:
        tensors: The tensors that the trees refer to, by name.
        objects: The path of every object found.
        problems: The kinds of objects that could not be taken, by path.
    """

    def __init__(self, shared: Iterable[Any], foreign: tuple[type, ...], known: set[str] | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.objects: set[str] = set()
        self.problems: dict[str, str] = {}
        self._seen = {id(value) for value in shared}
        self._foreign = (*foreign, nn.Parameter, torch.utils.data.Dataset, torch.optim.Optimizer)
        self._known = known

    def take(self, value: Any, path: str, made: bool = False) -> Tree:
        """The state of ``value``.

        Args:
            value: Anything.
            path: Names it in :attr:`problems`.
            made: Whether a fresh program makes an object for this place as soon as it is asked for.
        """
        if type(value) in _PLAIN:
            return value
        if id(value) in self._seen or isinstance(value, _CONSTANT):
            return _KEEP
        if isinstance(value, self._foreign):
            return self._problem(path, value)
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value.detach())}
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value), path)
        if type(value) in _SEQUENCES:
            return self._sequence(value, path)
        if isinstance(value, torch.Generator):
            return {"generator": self._tensor(value.get_state())}
        if isinstance(value, nn.Module):
            return self._problem(path, value) if value.state_dict() else _KEEP
        if isinstance(value, dict):
            return self._dict(value, path, made)
        if hasattr(value, "__dict__"):
            return self._object(value, path, made)
        return self._problem(path, value)

    def _tensor(self, value: Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = value
        return name

    def _array(self, value: np.ndarray[Any, Any], path: str) -> Tree:
        try:
            return {"array": self._tensor(torch.from_numpy(value.copy()))}
        except TypeError:  # texts, or Python objects
            return self._problem(path, value)

    def _sequence(self, value: Any, path: str) -> Tree:
        for kind, dtype in _PACKED.items():  # a long history would be slow as text
            if len(value) > 16 and isinstance(value, list) and all(type(x) is kind for x in value):
                try:
                    return {"packed": self._tensor(torch.tensor(value, dtype=dtype))}
                except (RuntimeError, ValueError, OverflowError):  # an integer of more than 64 bits
                    break
        items = [self.take(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if type(value) is deque:
            return {"deque": items, "maxlen": value.maxlen}
        return {_SEQUENCES[type(value)]: items}

    def _dict(self, value: dict[Any, Any], path: str, made: bool) -> Tree:
        if type(value) is not dict and not self._found(path, made):
            return self._problem(path, value)
        makes = isinstance(value, defaultdict) and value.default_factory is not None
        pairs = []
        for key, item in value.items():
            if type(key) not in _PLAIN and not (type(key) is tuple and all(type(k) in _PLAIN for k in key)):
                return self._problem(f"{path} with key {key!r}", key)
            name = list(key) if type(key) is tuple else key
            pairs.append([name, self.take(item, f"{path}[{key!r}]", made=makes)])
        return {"dict": pairs}

    def _object(self, value: Any, path: str, made: bool) -> Tree:
        if not self._found(path, made):
            return self._problem(path, value)
        self._seen.add(id(value))
        return {"object": {name: self.take(item, f"{path}.{name}", made) for name, item in vars(value).items()}}

    def _found(self, path: str, made: bool) -> bool:
        """Whether a fresh program has an object at ``path`` too, to put state into."""
        self.objects.add(path)
        return self._known is None or made or path in self._known

    def _problem(self, path: str, value: Any) -> Tree:
        self.problems[path] = type(value).__name__
        return _KEEP


class Putter:
    """Puts state back into the objects of a program that was started again.

    Args:
        tensors: The tensors that :class:`Taker` collected.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def put(self, live: Any, tree: Tree, path: str) -> Any:
        """The state of ``tree``: objects and dicts of ``live`` are changed in place, all else is made anew.

        Raises:
            ValueError: There is no object at a place that has state.
        """
        if not isinstance(tree, dict):
            return tree
        (kind, content), *more = tree.items()
        if kind == "keep":
            return live
        if kind == "tensor":
            return self._tensors[content].to(live.device if isinstance(live, Tensor) else "cpu", copy=True)
        if kind == "array":
            return self._tensors[content].clone().numpy()[()]
        if kind == "packed":
            return self._tensors[content].tolist()
        if kind == "generator" and isinstance(live, torch.Generator):
            live.set_state(self._tensors[content].clone())
            return live
        if kind == "dict":
            return self._dict(live, content, path)
        if kind == "object" and hasattr(live, "__dict__"):
            for name, item in content.items():
                vars(live)[name] = self.put(vars(live).get(name), item, f"{path}.{name}")
            return live
        if kind not in _MAKE:
            raise ValueError(f"{path}: the state of an object was saved, but there is {live!r} now")
        old = list(live) if type(live) in _SEQUENCES and not isinstance(live, set | frozenset) else []
        items = [self.put(old[i] if i < len(old) else None, item, f"{path}[{i}]") for i, item in enumerate(content)]
        return deque(items, more[0][1]) if more else _MAKE[kind](items)

    def _dict(self, live: Any, pairs: list[list[Any]], path: str) -> dict[Any, Any]:
        live = live if isinstance(live, dict) else {}
        old = dict(live)
        live.clear()
        for name, item in pairs:
            key = tuple(name) if isinstance(name, list) else name
            if key not in old and isinstance(live, defaultdict) and live.default_factory is not None:
                old[key] = live.default_factory()
            live[key] = self.put(old.get(key), item, f"{path}[{key!r}]")
        return live
