"""Methods by seeds by streams: ``python -m experiments.compare digits --grid variants --seeds 0 1 2 --output FOLDER``.

A grid is a TOML file in ``experiments/grids`` (or any other, by its path): one table for each method, with the options
of a run that make it. A cell is one run of one method on one stream with one seed, in a process of its own; a seed
gives the class order too. A cell leaves its files in ``FOLDER/STREAM/METHOD/seedN``. A finished cell is not run again,
so that an interrupted command continues when it is given again; ``--report-only FOLDER`` makes the tables anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from avalanche_sdlora.near import did_you_mean
from experiments.compare.cluster import Launcher, parse_settings, run_as_jobs
from experiments.compare.folder import remember_order
from experiments.compare.grid import Cell, plan, read_grid
from experiments.finished import check_output
from experiments.interruption import StoppedError, leave
from experiments.launched import several
from experiments.options.commandline import Option, taken
from experiments.options.flags import in_flags
from experiments.options.run_options import run_command

#: Options of a run that a comparison sets itself.
OWN = ("dataset", "seed", "output", "baselines")

TITLE = "The comparison"
OPTIONS = [
    Option("streams", str, "Data sets, as for experiments.run.", TITLE, positional=True, nargs="*"),
    Option("grid", str, "A file of experiments/grids, or any .toml; else recipes.", TITLE),
    Option("only", str, "These methods; they are compared with the first.", TITLE, nargs="+"),
    Option("seeds", int, "Each gives one run, and a class order, to every method.", TITLE, nargs="+"),
    Option("output", str, "The folder of the whole comparison.", TITLE),
    Option("jobs", int, "Runs at once, each with its share of the cores and a visible GPU; 1 by default.", TITLE),
    Option("launcher", Launcher, "Where runs are made: processes here, the default; or jobs of submitit.", TITLE),
    Option("submit", str, "Parameters of submitit, such as gpus_per_node=1.", TITLE, nargs="+"),
    Option("report-only", str, "Make the tables of this folder anew, and run nothing.", TITLE),
]
COMMAND = run_command(
    "python -m experiments.compare",
    "Compare methods over seeds on streams; options of a run hold for all runs.",
    OPTIONS,
    without=OWN,
)


def compare(
    cells: Sequence[Cell],
    output: str | Path,
    jobs: int = 1,
    launcher: Launcher = "processes",
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """Run the cells that are missing.

    Args:
        cells: From :func:`plan`.
        output: The folder of the whole comparison.
        jobs: Cells at once: in processes of this machine, each with its share of the cores and one of the visible GPUs;
            or as jobs of a cluster.
        launcher: See :func:`experiments.compare.cluster.run_as_jobs`; "processes": without it.
        settings: Parameters of submitit.

    Returns:
        One line for each cell that failed; a failure does not stop the other cells.

    Raises:
        ValueError: A cell's folder holds results of other arguments; nothing has been run.
        StoppedError: Ctrl-C was pressed; the message says what was kept.
    """
    missing = [cell for cell in cells if cell.finished() is None]
    remember_order(output, [cell.stream for cell in cells], [cell.method for cell in cells])
    print(f"{len(cells) - len(missing)} cells are finished, {len(missing)} to run")
    failures = []
    if launcher == "processes":
        ended = run_here(missing, jobs)
    else:
        ended = run_as_jobs(missing, Path(output, "jobs"), launcher, jobs, settings or {})
    try:
        for done, (cell, error) in enumerate(ended if missing else (), start=1):
            if error is not None:
                failures.append(f"{cell}: {error}")
            print(f"[{done}/{len(missing)}] {cell}: {_told(cell, error)}", flush=True)
    except KeyboardInterrupt:
        kept = sum(cell.finished() is not None for cell in cells)
        raise StoppedError(
            f"stopped. Kept: {kept} of {len(cells)} cells, and of those that were running what their last checkpoint "
            "holds; the same command continues"
        ) from None
    return failures


def run_here(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, BaseException | None]]:
    """Each cell once it has ended, with the error by which it failed; ``jobs`` at once, in processes here."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs if hasattr(os, "sched_getaffinity") else 1)
    gpus = visible_gpus() if any(cell.arguments.device.startswith("cuda") for cell in cells) else []
    free: SimpleQueue[str | None] = SimpleQueue()
    for job in range(jobs):
        free.put(gpus[job % len(gpus)] if gpus else None)

    def run(cell: Cell) -> None:
        gpu = free.get()
        try:
            cell.run(threads, gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            running = {pool.submit(run, cell): cell for cell in cells}
            for future in as_completed(running):
                yield running[future], future.exception()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for cell in cells:
                cell.stop()
            raise


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        return [str(i) for i in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]


def _told(cell: Cell, error: BaseException | None) -> str:
    """What is printed of a cell that has ended."""
    results = None if error else cell.finished()
    return f"Acc {results['acc']:.2f}, {results['seconds']['total']:.0f} s" if results else f"FAILED: {error}"


def main() -> None:
    """The command line."""
    failures: list[str] = []
    try:
        if several():
            raise ValueError("several processes: a comparison shares out its cells itself; start it without torchrun")
        given = COMMAND.parse()
        own = {"jobs": 1, **taken(given, OPTIONS)}
        output, jobs = own.get("report-only", own.get("output")), own["jobs"]
        if "report-only" not in own:
            if "streams" not in own:
                raise ValueError("name the data sets to compare on, such as digits (--help lists the options)")
            if not output:
                raise ValueError("--output: name the folder of the comparison")
            if jobs < 1:
                raise ValueError(f"jobs={jobs}: expected at least 1")
            methods = read_grid(own.get("grid", "recipes"))
            unknown = [name for name in own.get("only", []) if name not in methods]
            if unknown:
                raise ValueError(
                    f"--only {unknown[0]}: the grid has {', '.join(methods)}{did_you_mean(unknown[0], methods)}"
                )
            chosen = {name: methods[name] for name in own.get("only", methods)}
            check_output(output)
            cells = plan(own["streams"], chosen, own.get("seeds", [0]), output, given)
            settings = parse_settings(own.get("submit", []))
            failures = compare(cells, output, jobs, own.get("launcher", "processes"), settings)
        from experiments.compare.tables import write_comparison  # with it what draws, which takes its time

        write_comparison(str(output))
    except KeyboardInterrupt as interrupt:
        leave(interrupt)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")
    if failures:
        sys.exit("\n".join([f"error: {len(failures)} cells failed; the same command runs them again", *failures]))


if __name__ == "__main__":
    main()
