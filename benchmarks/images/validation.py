"""Training images to validate on, so that no recipe is chosen on test images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def held_out(groups: Sequence[Hashable], fraction: float) -> list[bool]:
    """Choose which training images to validate on: an equal share of every group, independent of any seed.

    They are spread evenly over the images of a group, in their order: file names often sort by where images came from.

    Args:
        groups: The group of each image, usually its label.
        fraction: The share to choose, between 0 and 1.

    Returns:
        True for each image that is chosen: of ``n`` in a group ``round(n * fraction)``, but at least 1 and at most
        ``n - 1``, so that a group of one image has none.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
    """
    check_fraction(fraction)
    places: dict[Hashable, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        places[group].append(i)
    chosen = [False] * len(groups)
    for members in places.values():
        n = min(max(1, round(len(members) * fraction)), len(members) - 1)
        for k in range(n):
            chosen[members[(2 * k + 1) * len(members) // (2 * n)]] = True
    return chosen


def check_fraction(fraction: float | None) -> None:
    """Refuse a share of the training images that is not between 0 and 1; None holds nothing out."""
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"validation={fraction}: expected a share of the training images between 0 and 1.")
