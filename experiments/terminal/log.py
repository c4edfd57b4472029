"""The log file of a run, and how its warnings are told."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def tell_warnings_plainly() -> None:
    """From now on a ``UserWarning`` is one line on standard error, without a line of code, and goes to the log."""
    usual, logger = warnings.showwarning, logging.getLogger("py.warnings")
    logger.addHandler(logging.NullHandler())  # else logging would print it a second time where there is no log

    def tell(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        logger.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
        if category is UserWarning:
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, filename, lineno, *rest)

    warnings.showwarning = tell  # type: ignore[assignment]


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
