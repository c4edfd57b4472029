"""What a command says when it is stopped with Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from avalanche_sdlora import Checkpoint

#: The exit status of a process that an interrupt has ended: 128 and the number of the signal.
STATUS = 130


class StoppedError(KeyboardInterrupt):
    """An interrupt that says what was kept, and how to go on."""


def stopped(checkpoint: Checkpoint, experiences: int, command: str, *, resumable: bool) -> StoppedError:
    """What is said of a run that was interrupted.

    Args:
        checkpoint: Its checkpoint.
        experiences: Length of its stream.
        command: What continues it.
        resumable: Whether its method can be continued.
    """
    if not resumable:
        return StoppedError("stopped. This method cannot be continued: nothing was kept")
    if checkpoint.kept is None:
        return StoppedError(f"stopped before training began; nothing was kept. {command} begins anew")
    done, epochs = checkpoint.kept
    more = f" and {epochs} epoch{'s' if epochs > 1 else ''} of the next" if epochs else ""
    return StoppedError(f"stopped. Kept: {done} of {experiences} experiences{more}; {command} continues")


def until_stopped(main: Callable[[], None]) -> None:
    """Run a command that keeps nothing of its own; Ctrl-C ends it with one line, too."""
    try:
        main()
    except KeyboardInterrupt as interrupt:
        leave(interrupt if str(interrupt) else KeyboardInterrupt("stopped"))


def leave(interrupt: KeyboardInterrupt) -> NoReturn:
    """End the process with one line, on a line of its own, and the status that shells know."""
    print(f"\n{str(interrupt) or 'stopped; nothing had been begun'}", file=sys.stderr)
    raise SystemExit(STATUS)
