"""Loses processes of the command line under torchrun: ``python -m tests.launching FOLDER SEED``.

A process of its own, that only forks. A launch is ``torch.distributed.run --standalone --nproc_per_node N -m
experiments.run digits ...``, except that torchrun and the processes which it starts need not import anything again.
What a launch printed lies in FOLDER/NAME.log; how each ended, in FOLDER/launches.json. The launch "alone" is of a
single process, without torchrun.
"""

import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from avalanche.core import SupervisedPlugin
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler

import experiments.run
import experiments.whole_run
from avalanche_sdlora import Checkpoint, processes
from avalanche_sdlora.processes import lifeline
from tests.few_digits import use_few
from tests.together import stat_of

SETTINGS = "--tasks 2 --epochs 2 --batch_size 32 --image_size 8 --seed 3 --device cpu"
METHOD = "--sdlora.rank 2 --sdlora.expansion 50 --sdlora.first_epochs 2"
OPTIONS = [*SETTINGS.split(), *METHOD.split()]
FIGURES = ["--baselines", "true", "--figures", "default"]
NO_FIGURES = ["--baselines", "false", "--figures", "none"]


def fork(work):
    """The process id of a fork that does ``work()`` in a session of its own, and ends as a program does."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        atexit._clear()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class Forked:
    """What torchrun uses of a subprocess."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        if self.returncode is None and (done := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(done[1])
        return self.returncode

    def wait(self, timeout=float("inf")):
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.01)
        return self.returncode


def start_process(self, arguments, environment):
    """In place of torchrun's ``Popen([python, "-u", "-m", "experiments.run", ...])``."""

    def work():
        os.environ.update(environment)
        sys.argv = list(arguments[arguments.index("-m") + 1 :])
        experiments.run.main()

    return Forked(fork(work))


def torchrun_of(size, output, log, watch, more):
    def work():
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        experiments.run.run = partial(experiments.run.run, watch=watch)
        command = ["experiments.run", "digits", *OPTIONS, *more, "--output", str(output)]
        if size is None:
            sys.argv = command
            experiments.run.main()
        else:
            torchrun.main(["--standalone", "--nproc_per_node", str(size), "-m", *command])

    return work


def children(pid):
    """Process ids in the order in which they were started."""
    found = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return sorted(map(int, found.split()))


def launch(
    folder, name, size, output, lose=None, after=0.0, by=signal.SIGKILL, watch=lambda strategy: None, more=NO_FIGURES
):
    """One launch of ``size`` processes.

    Args:
        size: None for one process without torchrun.
        lose: The rank that is lost, "all", "launcher", or nobody.
        after: Seconds after the first checkpoint that holds something new.

    Returns:
        ``status`` of torchrun, and the ``seconds`` until all processes had ended, from the loss on.
    """
    checkpoint = output / "checkpoint.safetensors"
    begun = time.monotonic()
    torchrun_process = Forked(fork(torchrun_of(size, output, folder / f"{name}.log", watch, more)))
    ranks = []
    if lose is not None:
        seen, enough = set(), 2 if checkpoint.exists() else 3  # a new run has one before it is trained
        while len(seen) < enough and torchrun_process.poll() is None:
            seen.add(checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0)
            time.sleep(0.01)
        ranks = children(torchrun_process.pid)
        time.sleep(after)
        begun = time.monotonic()
        everybody = [torchrun_process.pid, *ranks]
        for pid in {"all": everybody, "launcher": everybody[:1]}.get(lose) or [ranks[lose]]:
            os.kill(pid, by)
    status = torchrun_process.wait()
    while any(stat_of(pid) not in (None, "Z") for pid in ranks):
        time.sleep(0.05)
    return {"status": status, "seconds": time.monotonic() - begun}


# -- what goes wrong in one process ------------------------------------------------------------------------------------


class Fails(SupervisedPlugin, supports_distributed=True):
    """Raises an error in the last process alone, in the second experience."""

    def __init__(self, where, error):
        super().__init__()
        setattr(self, where, self.fail)
        self.error = error

    def fail(self, strategy, **kwargs):
        if processes.rank() == processes.size() - 1 and strategy.clock.train_exp_counter == 1:
            raise self.error


class Slow(SupervisedPlugin, supports_distributed=True):
    """Waits in every epoch for longer than processes take to notice that one is lost."""

    def before_training_epoch(self, strategy, **kwargs):
        time.sleep(2 * lifeline.EVERY)


def beside(plugin):
    return lambda strategy: strategy.plugins.append(plugin)


def main(folder, seed):
    use_few()
    SubprocessHandler._popen = start_process
    experiments.whole_run.Checkpoint = partial(Checkpoint, share=1.0)
    draw, found = random.Random(seed), {}

    def run(name, size, output, **settings):
        found[name] = launch(folder, name, size, folder / output, **settings)
        (folder / "launches.json").write_text(json.dumps(found))

    def moment():
        return draw.uniform(0, 0.05)  # an epoch takes longer

    run("alone", None, "alone", more=FIGURES)
    run("whole", 2, "whole", more=FIGURES)
    run("rank 1", 2, "killed", lose=1, after=moment())
    shutil.copytree(folder / "killed", folder / "one")
    run("rank 0", 2, "killed", lose=0, after=moment())
    run("all", 2, "killed", lose="all", after=moment())
    run("resumed", 2, "killed")
    run("resumed by one", 1, "one")
    run("launcher", 2, "orphans", lose="launcher", after=moment(), watch=beside(Slow()))
    run("training", 2, "training", watch=beside(Fails("after_forward", ValueError("an image that cannot be read"))))
    run("evaluation", 2, "evaluation", watch=beside(Fails("after_eval_forward", KeyError("cat"))))
    run("interrupt", 2, "interrupt", lose=0, by=signal.SIGINT, after=moment())
    run("interrupt all", 2, "interrupt", lose="launcher", by=signal.SIGINT, after=moment())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
