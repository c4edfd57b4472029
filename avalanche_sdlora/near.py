"""The question that a message asks about a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Ask for the known names that are like ``word``.

    Args:
        word: The name that is not known.
        known: The names that are.
        cutoff: How like ``word`` a name must be, from 0 to 1 (equal).

    Returns:
        ``"; did you mean A or B?"``, with three names at most, to end a message with; empty where none is near.
    """
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""
