"""A backbone's features: the model without its classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

# Where models keep their classifier, by the conventions of torchvision, Hugging Face, Avalanche and most others.
_CLASSIFIERS = ("head", "heads", "fc", "classifier")
# Where the outputs of Hugging Face keep features; logits are features once the classifier is gone.
_OUTPUTS = ("pooler_output", "last_hidden_state", "logits")

_PASSED: ContextVar[list[Tensor] | None] = ContextVar(
    "avalanche_sdlora_passed", default=None
)  # each thread has its own


class RemovedClassifier(nn.Identity):
    """Stands where a classifier was, and remembers the size of its features for another time.

    Args:
        size: The size ``d`` of the features.
        name: The classifier's name in its model.
    """

    def __init__(self, size: int, name: str) -> None:
        super().__init__()
        self.num_features = size
        self.name = name

    def forward(self, input: Tensor, *others: Any) -> Tensor:
        """The features ``(n, d)`` as they are; task labels, which multi-head classifiers are given, say nothing."""
        if not torch.compiler.is_compiling() and (passed := _PASSED.get()) is not None:
            passed.append(input)
        return input


def remove_classifier(model: nn.Module, classifier: str | Sequence[str] | None = None) -> int:
    """Takes the classifier off ``model``, in place, so that calling it gives features.

    Args:
        model: A timm model; or a module with a classifier.
        classifier: The name of the classifier in ``model``; several where their logits are averaged. None: it is
            found. It is what is called ``head``, ``heads``, ``fc`` or ``classifier`` (an ``nn.Linear``, another module
            with ``in_features``, or a ``Sequential`` that ends in an ``nn.Linear``); else there is none to remove, if
            the model says the size of its features in ``num_features`` or, as models of Hugging Face do, in
            ``config.hidden_size``; else it is the last ``nn.Linear``. :func:`check_end` finds out whether the model
            ends there.

    Returns:
        The size of the features.

    Raises:
        ValueError: There is no such classifier, or none is found.
    """
    if classifier is not None:
        return _remove_named(model, [classifier] if isinstance(classifier, str) else list(classifier))
    if callable(getattr(model, "reset_classifier", None)):  # timm
        model.reset_classifier(0)  # type: ignore[operator]
        size = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None)
        if isinstance(size, int):
            return size
    for name in _CLASSIFIERS:
        child = getattr(model, name, None)
        if isinstance(child, nn.Module) and (size := _in_features(child)) is not None:
            _replace(model, name, size)
            return size
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[-1], nn.Linear):
        return _replace(model, str(len(model) - 1), model[-1].in_features)
    # An earlier time may have left the place of a classifier.
    places = [name for name, m in model.named_modules() if isinstance(m, nn.Identity) and hasattr(m, "num_features")]
    if places and not hasattr(model, "num_features"):
        return [_replace(model, name, model.get_submodule(name).num_features) for name in places][-1]  # type: ignore[arg-type]
    for size in (getattr(model, "num_features", None), getattr(getattr(model, "config", None), "hidden_size", None)):
        if isinstance(size, int):
            return size
    last = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name][-1:]
    if last:
        return _remove_named(model, last)
    raise ValueError(
        f"model: {type(model).__name__} has no features to classify; expected a timm model, a module whose classifier "
        "is an nn.Linear, or a feature extractor with an integer num_features"
    )


def leave_plain(model: nn.Module) -> None:
    """Puts torch's ``nn.Identity``, with the size of the features, in the place of each :class:`RemovedClassifier`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, RemovedClassifier):
            parent, _, last = name.rpartition(".")
            identity = nn.Identity()
            identity.num_features = module.num_features  # type: ignore[assignment]
            setattr(model.get_submodule(parent), last, identity)


@contextmanager
def what_passes() -> Iterator[list[Tensor]]:
    """Within it, everything that passes through a :class:`RemovedClassifier` in this thread is put into a list."""
    passed: list[Tensor] = []
    token = _PASSED.set(passed)
    try:
        yield passed
    finally:
        _PASSED.reset(token)


@torch.no_grad()
def check_end(model: nn.Module, passed: Sequence[Tensor], features: Tensor) -> None:
    """Refuses a model that does not end where its classifier was, so that its output is something else than features.

    Args:
        model: The model; one without a :class:`RemovedClassifier` is not looked at.
        passed: What passed through those in the pass that gave the features (:func:`what_passes`).
        features: What the model gave, ``(n, d)``.

    Raises:
        ValueError: Nothing passed there, or the model made something else of it, a softmax for instance.
    """
    if not any(isinstance(m, RemovedClassifier) for m in model.modules()):
        return
    expected = torch.stack(list(passed)).mean(0) if passed and all(x.shape == passed[0].shape for x in passed) else None
    if expected is not None and expected.numel() == features.numel():
        expected = expected.to(features.dtype).reshape(features.shape)
        if torch.allclose(expected, features, rtol=1e-2, atol=1e-3, equal_nan=True):
            return
    raise ValueError(not_the_classifier(model, "goes on after it" if passed else "never calls it"))


def not_the_classifier(model: nn.Module, but: str = "goes on after it") -> str:
    """What a message says of a model that does not end where its classifier was."""
    names = ", ".join(repr(m.name) for m in model.modules() if isinstance(m, RemovedClassifier))
    return (
        f"classifier: {names} was taken for the classifier of the model, which {but}. Name the classifier: "
        "SDLoRAModel(..., classifier='NAME'), of SDLoRAStrategy and SDLoRAPlugin too. What a model does with its "
        "logits, a softmax for instance, must go"
    )


def features_of(output: Any) -> Any:
    """The features in the output of a backbone: the output itself, or a tensor inside an output of Hugging Face.

    Args:
        output: A tensor; or an object with ``pooler_output (n, d)``, ``last_hidden_state (n, tokens, d)``, of which the
            first token is taken, or ``logits (n, d)``, of a model without its classifier. The first one found is used.
    """
    if isinstance(output, Tensor):
        return output
    for name in _OUTPUTS:
        found = getattr(output, name, None)
        if isinstance(found, Tensor):
            return found[:, 0] if name == "last_hidden_state" and found.dim() == 3 else found
    return output


def gives_outputs(model: nn.Module) -> bool:
    """Whether ``model`` returns objects in place of tensors, as far as can be said without a forward pass."""
    config = getattr(model, "config", None)
    tensors = hasattr(model, "num_features") and not hasattr(config, "return_dict")  # Hugging Face's Swin has both
    return hasattr(config, "hidden_size") and not tensors


def _remove_named(model: nn.Module, names: Sequence[str]) -> int:
    found = {}
    for name in names:
        try:
            found[name] = _in_features(model.get_submodule(name)) if name else None
        except AttributeError:
            found[name] = None
    sizes = set(found.values())
    if len(sizes) != 1 or None in sizes:
        linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)][-3:]
        raise ValueError(
            f"classifier={names if len(names) != 1 else names[0]!r}: expected the name of an nn.Linear of "
            f"{type(model).__name__} that classifies; its last ones are {', '.join(map(repr, linear)) or 'missing'}"
        )
    return [_replace(model, name, size) for name, size in found.items() if size is not None][-1]


def _in_features(module: nn.Module) -> int | None:
    """The size of the features that a classifier takes; None where ``module`` is none."""
    if isinstance(module, nn.Sequential):
        return module[-1].in_features if len(module) and isinstance(module[-1], nn.Linear) else None
    size = getattr(module, "in_features", None)
    inner = getattr(module, "classifier", None)  # Avalanche's IncrementalClassifier
    if size is None and isinstance(inner, nn.Linear) and len(list(module.children())) == 1:
        size = inner.in_features
    return size if isinstance(size, int) else None


def _replace(model: nn.Module, name: str, size: int) -> int:
    """Takes a classifier out; of a ``Sequential`` only its last layer."""
    module = model.get_submodule(name)
    if isinstance(module, nn.Sequential):
        name = f"{name}.{list(module._modules)[-1]}"
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, RemovedClassifier(size, name))
    return size
