"""TensorBoard event files, brought back to an earlier moment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("avalanche_sdlora")


def writers_of(loggers: Any) -> list[Any]:
    """The TensorBoard writers among Avalanche's loggers."""
    writers = [getattr(one, "writer", None) for one in loggers]
    return [w for w in writers if hasattr(w, "log_dir") and hasattr(w, "flush")]


def event_sizes(writer: Any) -> dict[str, int]:
    """The size in bytes of every event file in a writer's folder, once everything so far has been written.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``.

    Returns:
        The sizes by path below the writer's folder.
    """
    writer.flush()
    folder, sizes = Path(writer.log_dir), {}
    for path in _event_files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            sizes[str(path.relative_to(folder))] = os.fstat(file.fileno()).st_size
    return sizes


def rewind_events(writer: Any, sizes: Mapping[str, int]) -> None:
    """Brings the folder of a writer back to the moment at which :func:`event_sizes` gave ``sizes``.

    Events are only ever appended, so cutting each file to its earlier length, and removing files that are newer, leaves
    exactly the events of then. TensorBoard's own ``purge_step`` cannot: events of one step may lie on both sides of
    that moment.
    """
    folder = Path(writer.log_dir)
    writer.close()  # it opens a new file for the next event
    for path in _event_files(folder):
        size = sizes.get(str(path.relative_to(folder)))
        if size is None:
            path.unlink()
        elif path.stat().st_size >= size:
            os.truncate(path, size)
        else:
            logger.warning("%s is shorter than it was at the checkpoint: events are missing", path)


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*tfevents*"))
