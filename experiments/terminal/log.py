"""The log file of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends what the program logs, warnings and a failure with its traceback to a file, too; it is appended to.

    A failure is named with the file on standard error and goes on its way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    except Exception:
        root.exception("the run failed")
        print(f"the run failed; its log is {path}", file=sys.stderr)
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
