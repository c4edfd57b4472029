"""The report of finished runs, made again: ``python -m experiments.report runs/one runs/two --output page.html``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.interruption import until_stopped
from experiments.options.commandline import CommandLine, Option
from experiments.options.flags import in_flags

COMMAND = CommandLine(
    "python -m experiments.report",
    "Make the report of any number of finished runs: one page that needs nothing else.",
    [
        Option("run", str, "Folders of runs, or of comparisons.", positional=True, nargs="+"),
        Option("output", str, "The page; report.html in the only run's folder, or here, by default."),
    ],
)


def read_runs(folders: Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The finished runs in folders, each of which is that of a run or has runs somewhere below it.

    Raises:
        ValueError: A folder holds no finished run, or a file is no results file.
    """
    runs = []
    for folder in map(Path, folders):
        files = [folder / "results.json"] if (folder / "results.json").is_file() else []
        files = files or sorted(folder.rglob("results.json"))
        if not files:
            raise ValueError(f"{folder}: there is no results.json in it; expected the folder of a run")
        for file in files:
            try:
                results = json.loads(file.read_text(encoding="utf-8"))
                missing = {"accuracy_matrix", "arguments", "config", "method", "environment"} - results.keys()
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{file}: not readable as the results of a run ({error})") from None
            if missing:
                raise ValueError(f"{file}: lacks {', '.join(sorted(missing))}; expected the results of a run")
            runs.append((file.parent, results))
    return runs


def main() -> None:
    """The command line."""
    try:
        given = COMMAND.parse()
        if "run" not in given:
            raise ValueError("run: none given; expected the folder of a finished run")
        runs = read_runs(given["run"])
        from experiments.report.page import write_report  # with it what draws, which takes its time

        output = Path(given.get("output") or (runs[0][0] if len(runs) == 1 else Path()) / "report.html")
        write_report(output, runs)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")
    print(f"report: {output}")


if __name__ == "__main__":
    until_stopped(main)
