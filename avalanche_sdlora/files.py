"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; the file written there replaces ``path`` at the end, in one step.

    Whoever reads ``path`` finds the old file or the whole new one, never a part. After an error the temporary file is
    gone and the old one is as it was. Missing folders are made.

    Raises:
        OSError: The folder cannot be written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # without this a crash of the machine may leave an empty file
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Removes the files that processes killed inside :func:`replacing` have left in ``folder``.

    No other process may be writing to the folder.
    """
    for left in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", left.name):
            left.unlink()
