"""A module is changed wholly or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_REGISTRIES = ("_modules", "_parameters", "_buffers")


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Restore ``model`` if an error leaves the block: its modules, tensors, attributes, and which parameters train.

    Values inside tensors are not restored.
    """
    before = [(m, type(m), dict(m.__dict__), [dict(m.__dict__[r]) for r in _REGISTRIES]) for m in model.modules()]
    trained = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind, attributes, registries in before:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, entries in zip(_REGISTRIES, registries, strict=True):
                registry = module.__dict__[name]
                registry.clear()
                registry.update(entries)
        for parameter, trains in trained:
            parameter.requires_grad_(trains)
        raise
