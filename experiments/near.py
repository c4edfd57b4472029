"""The question that a message asks about a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def hint(word: str, known: Iterable[str]) -> str:
    """Ask for the known names that are like ``word``: ``"; did you mean A or B?"``, empty where none is."""
    near = difflib.get_close_matches(word, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""
