"""A backbone's features: the model without its classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# Where models keep their classifier, by the conventions of torchvision, Avalanche and most others.
_CLASSIFIERS = ("head", "heads", "fc", "classifier")
# Where the outputs of Hugging Face keep features; logits are features once the classifier is gone.
_OUTPUTS = ("pooler_output", "last_hidden_state", "logits")


def remove_classifier(model: nn.Module) -> int:
    """Takes the classifier off ``model``, in place, so that calling it gives features.

    Args:
        model: A timm model; or a module whose last layer is an ``nn.Linear`` called ``head``, ``heads``, ``fc`` or
            ``classifier`` (or a ``Sequential`` that ends in one); or one that has no classifier and says the
            size of its features in ``num_features`` or, as models of Hugging Face do, in ``config.hidden_size``.

    Returns:
        The size of the features.

    Raises:
        ValueError: ``model`` is none of these.
    """
    if callable(getattr(model, "reset_classifier", None)):  # timm
        model.reset_classifier(0)  # type: ignore[operator]
        size = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None)
        if isinstance(size, int):
            return size
    for name in _CLASSIFIERS:
        child = getattr(model, name, None)
        if isinstance(child, nn.Linear):
            setattr(model, name, _nothing(child.in_features))
            return child.in_features
        if isinstance(child, nn.Sequential) and len(child) and isinstance(child[-1], nn.Linear):
            return _drop_last(child)
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[-1], nn.Linear):
        return _drop_last(model)
    removed = (m for m in model.modules() if isinstance(m, nn.Identity))  # an earlier time may have left one
    sizes = [getattr(m, "num_features", None) for m in (model, *removed)]
    sizes.append(getattr(getattr(model, "config", None), "hidden_size", None))
    for size in sizes:
        if isinstance(size, int):
            return size
    raise ValueError(
        f"model: {type(model).__name__} has no features to classify; expected a timm model, a module whose classifier "
        f"is an nn.Linear called {', '.join(_CLASSIFIERS)}, or a feature extractor with an integer num_features"
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


def _drop_last(sequential: nn.Sequential) -> int:
    size: int = sequential[-1].in_features  # type: ignore[assignment]
    sequential[-1] = _nothing(size)
    return size


def _nothing(size: int) -> nn.Identity:
    """Stands where a classifier was, and remembers the size of its features for another time."""
    identity = nn.Identity()
    identity.num_features = size  # type: ignore[assignment]
    return identity
