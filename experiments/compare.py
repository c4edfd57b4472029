"""Methods by seeds by streams: ``python -m experiments.compare digits --grid variants --seeds 0 1 2 --output FOLDER``.

A grid is a TOML file in ``experiments/grids`` (or any other, by its path): one table for each method, with the
arguments of a run that make it what it is. A cell is one run of one method on one stream with one seed, in a process of
its own; a seed gives the class order too. It leaves its files in ``FOLDER/STREAM/METHOD/seedN``. What is finished there
is not run again, so the same command goes on after an interruption; ``--report-only FOLDER`` makes the tables anew.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from jsonargparse import ArgumentParser

from experiments.arguments import Arguments
from experiments.cells import Cell, plan, read_grid
from experiments.comparison import remember_order
from experiments.tables import write_comparison

# What a comparison sets itself.
_OWN = {"dataset", "seed", "output", "baselines"}


def compare(cells: Sequence[Cell], output: str | Path, jobs: int = 1) -> list[str]:
    """Runs the cells that are missing, and writes the tables and the figure.

    Args:
        cells: From :func:`plan`.
        output: The folder of the whole comparison.
        jobs: Processes at once, each with its share of the cores.

    Returns:
        What failed, a line a cell; the other cells are run all the same.

    Raises:
        ValueError: A cell's folder holds results of other arguments; nothing has been run.
    """
    missing = [cell for cell in cells if cell.finished() is None]
    remember_order(output, [cell.stream for cell in cells], [cell.method for cell in cells])
    print(f"{len(cells) - len(missing)} cells are finished, {len(missing)} to run")
    threads = max(1, len(os.sched_getaffinity(0)) // jobs if hasattr(os, "sched_getaffinity") else 1)
    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(cell.run, threads): cell for cell in missing}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                cell, error = running[future], future.exception()
                if error is not None:
                    failures.append(f"{cell}: {error}")
                results = None if error else cell.finished()
                told = (
                    f"Acc {results['acc']:.2f}, {results['seconds']['total']:.0f} s" if results else f"FAILED: {error}"
                )
                print(f"[{done}/{len(missing)}] {cell}: {told}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def main() -> None:
    """The command line: that of a comparison, and every argument of a run that a grid may set."""
    parser = ArgumentParser(description="Compare methods over seeds on streams; arguments of a run hold for all cells.")
    parser.add_argument("streams", nargs="*", help="data sets, as for experiments.run")
    parser.add_argument("--grid", default="presets", help="a file in experiments/grids by its name, or a .toml file")
    parser.add_argument("--only", nargs="+", type=str, help="these methods of the grid; the first is compared with")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one run each, with its own class order")
    parser.add_argument("--output", help="the folder of the whole comparison")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with its share of the cores")
    parser.add_argument("--report-only", metavar="FOLDER", help="make the tables of FOLDER anew, and run nothing")
    parser.add_class_arguments(Arguments, as_group=False, skip=_OWN)
    names = {field.name for field in dataclasses.fields(Arguments)} - _OWN
    parser.set_defaults(dict.fromkeys(names))
    given = parser.parse_args().as_dict()
    try:
        output = given["report_only"] or given["output"]
        failures: list[str] = []
        if not given["report_only"]:
            if not given["streams"] or not output or given["jobs"] < 1:
                raise ValueError("expected streams, --output FOLDER, and --jobs of at least 1 (see --help)")
            methods = read_grid(given["grid"])
            unknown = [name for name in given["only"] or [] if name not in methods]
            if unknown:
                raise ValueError(f"only={unknown}: the grid has {', '.join(methods)}")
            chosen = {name: methods[name] for name in given["only"] or methods}
            overrides = {name: given[name] for name in names if given[name] is not None}
            cells = plan(given["streams"], chosen, given["seeds"], output, overrides)
            failures = compare(cells, output, given["jobs"])
        write_comparison(output)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if failures:
        sys.exit("\n".join([f"error: {len(failures)} cells failed; the same command runs them again", *failures]))


if __name__ == "__main__":
    main()
