"""A backbone's features: the model without its classifier."""

from __future__ import annotations

from torch import nn

# Where models keep their classifier, by the conventions of torchvision, Avalanche and most others.
_CLASSIFIERS = ("head", "heads", "fc", "classifier")


def remove_classifier(model: nn.Module) -> int:
    """Takes the classifier off ``model``, in place, so that calling it gives features.

    Args:
        model: A timm model; or a module whose last layer is an ``nn.Linear`` called ``head``, ``heads``, ``fc`` or
            ``classifier`` (or a ``Sequential`` that ends in one); or one that has no classifier and says the
            size of its features in ``num_features``.

    Returns:
        The size of the features.

    Raises:
        ValueError: It is none of these.
    """
    if callable(getattr(model, "reset_classifier", None)):  # timm
        model.reset_classifier(0)  # type: ignore[operator]
        size = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None)
        if isinstance(size, int):
            return size
    for name in _CLASSIFIERS:
        child = getattr(model, name, None)
        if isinstance(child, nn.Linear):
            setattr(model, name, nn.Identity())
            return child.in_features
        if isinstance(child, nn.Sequential) and len(child) and isinstance(child[-1], nn.Linear):
            return _drop_last(child)
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[-1], nn.Linear):
        return _drop_last(model)
    size = getattr(model, "num_features", None)
    if isinstance(size, int):
        return size
    raise ValueError(
        f"model: {type(model).__name__} has no features to classify; expected a timm model, a module whose classifier "
        f"is an nn.Linear called {', '.join(_CLASSIFIERS)}, or a feature extractor with an integer num_features"
    )


def _drop_last(sequential: nn.Sequential) -> int:
    last = sequential[-1]
    sequential[-1] = nn.Identity()
    return last.in_features  # type: ignore[return-value]
