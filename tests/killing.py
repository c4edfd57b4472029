"""Kills a run of the command line with SIGKILL again and again: ``python -m tests.killing FOLDER SEED KILLS``.

A process of its own, that only forks: every run is a fresh process which need not import anything again.
"""

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import experiments.run
import experiments.whole_run
from avalanche_sdlora import Checkpoint
from experiments.arguments import Arguments
from tests.few_digits import use_few

SETTINGS = {
    "tasks": 2,
    "epochs": 2,
    "batch_size": 128,
    "seed": 3,
    "image_size": 8,
    "baselines": False,
    "settings": {"sdlora.rank": 2, "sdlora.expansion": 50, "sdlora.first_epochs": 2},
}


def start(output):
    """The process id of a run in a process of its own."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        with open(f"{output}.log", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            experiments.run.run(Arguments("digits", output=str(output), **SETTINGS))
        status = 0
    except BaseException:
        with open(f"{output}.log", "a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(status)


def killed(pid, moment):
    """Waits for the end of a process, or kills it when ``moment()`` says so; returns whether it was killed."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, "the run failed: see the log"
            return False
        if moment():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
        time.sleep(0.001)


def main(folder, seed, kills):
    """One uninterrupted run in FOLDER/whole; one in FOLDER/killed that is killed up to ``kills`` times."""
    use_few()
    # Checkpoints at every possible moment, though a run so short would leave most of them out.
    experiments.whole_run.Checkpoint = partial(Checkpoint, share=1.0)
    output, draw, count = folder / "killed", random.Random(seed), 0
    begun = time.monotonic()
    assert not killed(start(folder / "whole"), lambda: False)
    seconds = time.monotonic() - begun
    while True:
        at = time.monotonic() + draw.uniform(0.05, 0.35) * seconds
        writing = count % 2 == 1  # every other time in the middle of writing a checkpoint, if that can be caught
        pid = start(output)

        def moment(at=at, writing=writing):
            return (writing and any(output.glob(".checkpoint*.tmp"))) or time.monotonic() > at

        if not killed(pid, moment if count < kills else lambda: False):
            break
        count += 1
    print(count)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
