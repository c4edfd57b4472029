"""The cells of a comparison: which runs it takes, and one of them in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche_sdlora.near import did_you_mean
from experiments.arguments import Arguments
from experiments.compare.folder import cell_folder
from experiments.finished import finished
from experiments.options.run_options import check_settings
from experiments.recipes import flattened, read_toml
from experiments.resolve import Resolved, resolve

ROOT = Path(__file__).resolve().parents[2]
GRIDS = ROOT / "experiments" / "grids"


#: The processes of cells that run now, by their folders.
_RUNNING: dict[Path, subprocess.Popen[bytes]] = {}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        stream: Name of the data set.
        method: Name of the method in the grid.
        resolved: The run with nothing left open.
    """

    stream: str
    method: str
    resolved: Resolved

    @property
    def arguments(self) -> Arguments:
        """The arguments of the run."""
        return self.resolved.arguments

    @property
    def folder(self) -> Path:
        """The folder with the files of the run."""
        return Path(str(self.arguments.output))

    def __str__(self) -> str:
        return f"{self.stream}, {self.method}, seed {self.arguments.seed}"

    def finished(self) -> dict[str, Any] | None:
        """The results of the run, None where it has not been made.

        Raises:
            ValueError: The folder holds the results of a run with other arguments.
        """
        return finished(self.resolved)

    def stop(self) -> None:
        """End the run's process, if there is one; what its last checkpoint holds stays."""
        if (process := _RUNNING.get(self.folder)) is not None:
            process.send_signal(signal.SIGINT)

    def command(self) -> list[str]:
        """The command line of the run."""
        options = self.arguments.flat()
        command = [sys.executable, "-m", "experiments.run", options.pop("dataset")]
        for name, value in options.items():
            if value is not None:
                command += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return command

    def run(self, threads: int, device: str | None = None) -> None:
        """Make the run in a process of its own, which prints to ``log.txt``.

        Args:
            threads: Number of threads, unless the environment variable OMP_NUM_THREADS says otherwise.
            device: The GPU that the run sees, as CUDA_VISIBLE_DEVICES names it; None: as this process.

        Raises:
            RuntimeError: It failed; with the last line that it printed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # Threads that wait by spinning take the cores from the other cells.
        defaults = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        # Without a buffer the error is the last line of the log.
        own = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
        if device is not None:
            own["CUDA_VISIBLE_DEVICES"] = device
        log = self.folder / "log.txt"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                self.command(),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**defaults, **os.environ, **own},
            )
            _RUNNING[self.folder] = process
            try:
                status = process.wait()
            finally:
                del _RUNNING[self.folder]
        if status:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")
            raise RuntimeError(f"{last} (all of it is in {log})")


def read_grid(grid: str) -> dict[str, dict[str, Any]]:
    """The methods of a grid by name, each with the settings that make it.

    Args:
        grid: The name of a file in ``experiments/grids``, or the path of another, which ends in ``.toml``.

    Raises:
        ValueError: There is no such grid, or something in it is no setting of a run.
    """
    if grid == "presets":
        raise ValueError("grid='presets': this grid is now called recipes, since each of its rows is a recipe")
    path = Path(grid) if grid.endswith(".toml") else GRIDS / f"{grid}.toml"
    if not path.is_file() and path.parent == GRIDS:
        names = sorted(file.stem for file in GRIDS.glob("*.toml"))
        raise ValueError(
            f"grid={grid!r}: there are {', '.join(names)}, or name a .toml file{did_you_mean(grid, names)}"
        )
    methods = {}
    for name, settings in read_toml(path).items():
        if not isinstance(settings, dict) or not re.fullmatch(r"[\w.+=-]+", name):
            raise ValueError(f"{path}: {name!r}: expected tables, named with letters, digits and . + = - _")
        methods[name] = flattened(settings)
        check_settings(methods[name], f"{path} [{name}]", allowed=("recipe", "method"))
    return methods


def plan(
    streams: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    output: str | Path,
    overrides: Mapping[str, Any],
) -> list[Cell]:
    """All cells, those of the first seed first, each checked as far as that is possible without its data.

    Args:
        streams: Names of data sets.
        methods: Settings of each method, as :func:`read_grid` gives them.
        seeds: Each gives one run of a method on a stream.
        output: The folder of the whole comparison.
        overrides: Arguments of all cells, by the names that they have on the command line.

    Raises:
        ValueError: A cell's arguments cannot be used, or contradict each other; the message names the cell.
    """
    if len(set(seeds)) < len(seeds) or len(set(streams)) < len(streams):
        raise ValueError(f"streams={list(streams)}, seeds={list(seeds)}: each only once")
    cells = []
    for seed in seeds:
        for stream in streams:
            for i, (method, settings) in enumerate(methods.items()):
                both = settings.keys() & overrides.keys()
                if both:
                    raise ValueError(f"{method}: the grid and the command line both set {', '.join(sorted(both))}")
                folder = cell_folder(output, stream, method, seed)
                # One measurement of the training-free baselines serves every method, and its features other seeds.
                usual = {"baselines": i == 0, "keep_features": str(Path(output, "features"))}
                own = {"dataset": stream, "seed": seed, "output": str(folder)}
                try:
                    resolved = resolve(Arguments.from_flat({**usual, **overrides, **settings, **own}))
                except ValueError as error:
                    raise ValueError(f"{stream}, {method}: {error}") from error
                cells.append(Cell(stream, method, resolved))
    return cells
