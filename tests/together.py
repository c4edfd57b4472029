"""Runs cases in several processes: ``python -m tests.together FOLDER 1 2 3 -- CASE...``.

A process of its own, that only forks, so that nothing is imported again. What a case returns in the process of rank R
of N lies in FOLDER/CASE-N-R.pt; what it printed and how it failed, in FOLDER/N-R.log.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fork(rank, size, port, log, work):
    """The process id of one rank that does ``work()``."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            if size > 1:
                from avalanche_sdlora.processes import group

                group._leave()
            sys.stdout.flush()
    finally:
        os._exit(status)


def together(size, folder, work, name="log"):
    """The exit statuses of ``size`` processes that all do ``work(rank)``, by rank."""
    port = free_port()
    pids = [fork(r, size, port, folder / f"{name}-{size}-{r}.log", lambda r=r: work(r)) for r in range(size)]
    return [os.waitstatus_to_exitcode(status) for status in _wait(pids)]


def _wait(pids):
    """As a launcher does it: whoever ends is noticed at once, and one that is stopped does not outlive the others."""
    ended = {}
    while len(ended) < len(pids):
        if len(ended) == len(pids) - 1 and any(ended.values()):
            for pid in pids:
                if pid not in ended and stat_of(pid) == "T":
                    os.kill(pid, signal.SIGKILL)
        for pid in pids:
            if pid not in ended and (done := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = done[1]
        time.sleep(0.01)
    return [ended[pid] for pid in pids]


def stat_of(pid):
    """The letter that Linux has for the state of a process, None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def main(folder, sizes, names):
    from tests import shared_cases

    failed = False
    for size in sizes:
        cases = shared_cases.cases_of(size)

        def work(rank, size=size, cases=cases):
            for name in names:
                if name in cases:
                    torch.save(cases[name](folder), folder / f"{name}-{size}-{rank}.pt")

        failed |= any(together(size, folder, work))
    if "lose" in names:
        (folder / "lost.json").write_text(json.dumps(shared_cases.lose(folder, together)))
    sys.exit(failed)


if __name__ == "__main__":
    cut = sys.argv.index("--")
    main(Path(sys.argv[1]), list(map(int, sys.argv[2:cut])), sys.argv[cut + 1 :])
