"""The images of a stream, ready for Avalanche, and the line that says which they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class PreparedImages(NamedTuple):
    """Data sets for Avalanche, with the transforms of training and of evaluation.

    Attributes:
        train: Training images, a data set with labels in ``targets``.
        test: Test images, a data set with labels in ``targets``.
        train_transform: The transform for training, or None.
        eval_transform: The transform for evaluation, or None.
        note: How the images were changed, to be added to the line that says which they are.
    """

    train: Any
    test: Any
    train_transform: Any
    eval_transform: Any
    note: str = ""


def describe(title: str, n_train: int, n_test: int, validation: float | None, skipped: Sequence[str]) -> str:
    """One line that says which images a stream holds."""
    line = f"{title}: {n_train} training and {n_test} {'test' if validation is None else 'validation'} images"
    if validation is not None:
        line += f" ({validation:g} of the training images, in place of the test images)"
    return line + (f", without {len(skipped)} that cannot be read" if skipped else "")
