"""Signs of life: a process that is lost is named, and no other waits for it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

import torch.distributed as dist

logger = logging.getLogger("avalanche_sdlora")

EVERY = 1.0  # seconds between two signs of life
PATIENCE = 30.0  # seconds without one after which a process counts as lost
AGAIN = "The same command goes on from its last checkpoint"
_ENDED = "it has ended, and the others have not"
_FOLLOWED = "it ended because another was lost"


class ProcessLostError(RuntimeError):
    """A process is gone that the others need; the message names its rank."""


class Lifeline(threading.Thread):
    """Tells the other processes, through the store of their group, that this one lives, and watches them.

    A process that dies while the others wait for it in a collective usually shows at once, as a broken connection.
    Where it does not (another machine has lost power, or nccl waits on a GPU), its signs of life stop, or its last
    words say that it has failed; after :data:`PATIENCE` seconds the watching thread names it and ends its own process,
    which could only wait.

    Args:
        store: A connection of this thread's own.
        rank: The number of this process.
        size: How many there are.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        super().__init__(name="lifeline", daemon=True)
        self._store, self._rank, self._size = store, rank, size
        self._ending = threading.Event()
        self._beats = 0
        self.process = os.getpid()
        self.follows = False  # whether this process ends because another was lost
        self._seen = {other: ("0", time.monotonic()) for other in range(size) if other != rank}
        self._beat()
        store.set(_key("place", rank), f"{place()} {os.getpid()}")
        places = [store.get(_key("place", other)).decode().split() for other in range(size)]  # waits for all of them
        self._pids = {r: int(pid) for r, (there, pid) in enumerate(places) if there == place() and r != rank}

    def run(self) -> None:
        """Beats and looks, until the process ends."""
        while not self._ending.wait(EVERY):
            try:
                self._beat()
                lost = self._silent()
            except RuntimeError:  # the store is gone, and with it whoever kept it
                kept = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
                if self._ending.is_set() or self._has_ended(0):
                    return
                self._die(f"{kept} was lost: the processes' common store cannot be reached")
            else:
                if lost:
                    self._die(lost)

    def stop(self, last_words: str = "") -> None:
        """Says that this process ends, and why; it is said once."""
        if self._ending.is_set():
            return
        self._ending.set()
        last_words = last_words or (_FOLLOWED if self.follows else _ENDED)
        try:
            self._store.set(_key("life", self._rank), last_words)
            keeps = self._rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
            until = time.monotonic() + PATIENCE
            while keeps and last_words == _ENDED and time.monotonic() < until and not self._all_ended():
                time.sleep(0.05)  # the store ends with this process, and the others need it to the end
        except RuntimeError:
            return

    def missing(self) -> str:
        """Why a collective has failed: who is lost, as soon as that can be said; empty if all processes live."""
        until = time.monotonic() + PATIENCE + EVERY
        while time.monotonic() < until:
            if lost := self.gone() or self._silent():
                return lost
            time.sleep(0.1)
        return ""

    def gone(self) -> str:
        """Who has ended, by the latest signs; empty if all processes seem to live.

        Whoever ended because of a loss is named only where nobody else can be.
        """
        words = {other: word for other, (word, _) in self._look().items()}
        words |= {r: "its process is gone" for r, pid in self._pids.items() if words[r].isdigit() and not _lives(pid)}
        for kinds in ({*words.values()} - {_ENDED, _FOLLOWED}, {_ENDED}, {_FOLLOWED}):
            if lost := {r: word for r, word in words.items() if word in kinds and not word.isdigit()}:
                return _lost(lost)
        return ""

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(_key("life", self._rank), str(self._beats))

    def _look(self) -> dict[int, tuple[str, float]]:
        """What each other process said last, and since when it says so."""
        try:
            words = self._store.multi_get([_key("life", other) for other in self._seen])
        except RuntimeError:
            return self._seen
        for other, word in zip(list(self._seen), words):
            if word.decode() != self._seen[other][0]:
                self._seen[other] = (word.decode(), time.monotonic())
        return self._seen

    def _silent(self) -> str:
        """Who has given no sign of life for too long; one that has ended as it should is not waited for."""
        now = time.monotonic()
        silent = {r: word for r, (word, since) in self._look().items() if word != _ENDED and now - since > PATIENCE}
        unsaid = f"there was no sign of life for {PATIENCE:.0f} s"
        return _lost({r: unsaid if word.isdigit() else word for r, word in silent.items()}) if silent else ""

    def _has_ended(self, other: int) -> bool:
        return self._seen.get(other, ("0", 0.0))[0] == _ENDED

    def _all_ended(self) -> bool:
        dead = {other for other, pid in self._pids.items() if not _lives(pid)}
        return all(other in dead or not word.isdigit() for other, (word, _) in self._look().items())

    def _die(self, message: str) -> None:
        print(f"error: {message}; rank {self._rank} ends", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread may wait inside a collective that no signal reaches


_lifeline: Lifeline | None = None


def begin() -> None:
    """Starts to watch, once."""
    global _lifeline
    if _lifeline is not None:
        return
    store = dist.distributed_c10d._get_default_store()
    _lifeline = Lifeline(dist.PrefixStore("lifeline", store.clone()), dist.get_rank(), dist.get_world_size())
    _lifeline.start()
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        last_words(error)
        before(kind, error, trace)

    sys.excepthook = hook
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def last_words(error: BaseException) -> None:
    """Tells the other processes by which error this one ends; they may wait for it.

    An error that nobody catches is told of its own accord, one that a program turns into an exit status is not.
    """
    if _lifeline is not None and not isinstance(error, ProcessLostError):
        _lifeline.stop(f"it stopped with {type(error).__name__}: {error}")


def end() -> None:
    """Says that this process ends as it should."""
    if _lifeline is not None:
        _lifeline.stop()


def _terminated(number: int, frame: FrameType | None) -> None:
    """A launcher ends this process: if another was lost, that is an error which names it; else it ends at once.

    Raises:
        ProcessLostError: Another process was lost.
    """
    if _lifeline is not None and _lifeline.process == os.getpid():  # not one that was forked, to load images
        if _lifeline.follows:  # it is on its way out, with the reason
            return
        if lost := _lifeline.gone():
            _lifeline.follows = True
            raise ProcessLostError(f"rank {dist.get_rank()} was told to end: {lost}. {AGAIN}")
        _lifeline.stop(f"it was ended by {signal.Signals(number).name}")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def collective(what: str) -> Iterator[None]:
    """Around a collective: an error says which process was lost.

    Raises:
        ProcessLostError: The collective failed.
    """
    try:
        yield
    except RuntimeError as error:
        missing = _lifeline.missing() if _lifeline is not None else ""
        if _lifeline is not None:
            _lifeline.follows = True
        reason = missing or f"not all processes came within the time limit ({str(error).splitlines()[0]})"
        message = f"rank {dist.get_rank()} waited for {what}: {reason}. {AGAIN}"
        logger.critical(message)  # at once: a launcher that has noticed, too, may end this process in a moment
        raise ProcessLostError(message) from error


def _lost(why: dict[int, str]) -> str:
    """Names lost ranks and how each was lost."""
    return "; ".join(f"rank {rank} was lost ({how})" for rank, how in sorted(why.items()))


def _key(what: str, rank: int) -> str:
    return f"{what}/{rank}"


def place() -> str:
    """Names where process ids mean the same: a machine and, on it, a container."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}-{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown-{os.getpid()}"


def _lives(pid: int) -> bool:
    """Whether a process of this machine still runs; one that has ended stays listed until it has been waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
