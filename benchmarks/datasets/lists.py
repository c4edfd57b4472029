"""Text files of lists, as data sets publish them."""

from __future__ import annotations

from pathlib import Path


def read_pairs(path: Path, *, last: bool = False) -> list[tuple[str, str]]:
    """The two words of each line.

    Args:
        path: A text file.
        last: Split at the last space of a line rather than at the first.

    Raises:
        ValueError: The file cannot be read, or a line is not two words.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    pairs = [tuple(line.rsplit(" ", 1) if last else line.split(" ", 1)) for line in lines if line]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong or not pairs:
        raise ValueError(f"{path}: expected two words on each line; got {wrong[0] if wrong else 'none'}.")
    return [(pair[0], pair[1]) for pair in pairs]
