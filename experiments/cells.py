"""The cells of a comparison: which runs it takes, and one of them in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.arguments import CIRCUMSTANCES, Arguments, check_settings
from experiments.methods import METHODS
from experiments.recipe import hint, read_toml

GRIDS = Path(__file__).with_name("grids")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison: its place, and its arguments with everything filled in."""

    stream: str
    method: str
    arguments: Arguments

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(str(self.arguments.output))

    def __str__(self) -> str:
        return f"{self.stream}, {self.method}, seed {self.arguments.seed}"

    def finished(self) -> dict[str, Any] | None:
        """Its results, if it has been run.

        Raises:
            ValueError: They are those of a run with other arguments.
        """
        path = self.folder / "results.json"
        if not path.exists():
            return None
        results = json.loads(path.read_text(encoding="utf-8"))
        there, asked = _material(results["arguments"], results["config"]), self._material()
        differences = [
            f"{name} {there.get(name)!r} there, {asked.get(name)!r} asked"
            for name in sorted(there.keys() | asked.keys())
            if there.get(name) != asked.get(name)
        ]
        if differences:
            raise ValueError(
                f"{path} is of another run ({'; '.join(differences)}): name another --output, or remove {self.folder}"
            )
        return results

    def _material(self) -> dict[str, Any]:
        config = METHODS[self.arguments.method].describe(self.arguments)
        return _material(dataclasses.asdict(self.arguments), json.loads(json.dumps(config)))

    def command(self) -> list[str]:
        """The command that runs it."""
        options = dataclasses.asdict(self.arguments)
        command = [sys.executable, "-m", "experiments.run", options.pop("dataset")]
        for name, value in options.items():
            if value is not None:
                command += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return command

    def run(self, threads: int) -> None:
        """Runs it in a process of its own; what that prints goes to ``log.txt``.

        Args:
            threads: So many threads, unless the environment variable OMP_NUM_THREADS says otherwise.

        Raises:
            RuntimeError: It failed; with the last line that it printed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        # Threads that wait by spinning take the cores from the other cells.
        defaults = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        # Without a buffer the error is the last line of the log.
        own = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
        log = self.folder / "log.txt"
        with open(log, "wb") as file:
            done = subprocess.run(
                self.command(),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**defaults, **os.environ, **own},
            )
        if done.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.returncode}")
            raise RuntimeError(f"{last} (all of it is in {log})")


def _material(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes one experiment another; settings of the method as they are, wherever they came from."""
    default = {field.name: field.default for field in dataclasses.fields(Arguments)}
    settings = {name: value for name, value in {**default, **arguments}.items() if name not in CIRCUMSTANCES}
    settings["weights"] = settings["weights"] and Path(settings["weights"]).name
    if config:
        settings = {name: value for name, value in settings.items() if name not in {*config, "preset", "rank_depth"}}
    return {**settings, **config}


def read_grid(grid: str) -> dict[str, dict[str, Any]]:
    """The methods of a grid: name to settings.

    Args:
        grid: The name of a file in ``experiments/grids``, or the path of another, which ends in ``.toml``.

    Raises:
        ValueError: There is no such grid, or it has something else than settings of a run in it.
    """
    path = Path(grid) if grid.endswith(".toml") else GRIDS / f"{grid}.toml"
    if not path.is_file() and path.parent == GRIDS:
        names = sorted(file.stem for file in GRIDS.glob("*.toml"))
        raise ValueError(f"grid={grid!r}: there are {', '.join(names)}, or name a .toml file{hint(grid, names)}")
    methods = read_toml(path)
    for name, settings in methods.items():
        if not isinstance(settings, dict) or not re.fullmatch(r"[\w.+=-]+", name):
            raise ValueError(f"{path}: {name!r}: expected tables, named with letters, digits and . + = - _")
        check_settings(settings, f"{path} [{name}]", allowed=("recipe", "method"))
    return methods


def plan(
    streams: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    output: str | Path,
    overrides: Mapping[str, Any],
) -> list[Cell]:
    """Every cell, the first seed's first, each checked as far as that goes without its data.

    Args:
        streams: Names of data sets.
        methods: What makes each method, as from :func:`read_grid`.
        seeds: One run each.
        output: The folder of the whole comparison.
        overrides: Arguments that all cells have.

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
                folder = Path(output, re.sub(r"[^\w.-]+", "_", stream), method, f"seed{seed}")
                # The training-free baseline is the same for every method.
                settings = {"baselines": i == 0, **overrides, **settings, "seed": seed, "output": str(folder)}
                try:
                    arguments = Arguments(stream, **settings).resolved()
                    METHODS[arguments.method].describe(arguments)
                except ValueError as error:
                    raise ValueError(f"{stream}, {method}: {error}") from error
                cells.append(Cell(stream, method, arguments))
    return cells
