"""Train a method on a data set and report: ``python -m experiments.run digits``.

What a command line says is read and refused here, before torch and Avalanche are imported for the run itself
(:mod:`experiments.whole_run`), which takes many times as long.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import launched
from experiments.arguments import Arguments
from experiments.finished import check_output, finished
from experiments.interruption import leave
from experiments.options.commandline import Option
from experiments.options.config_file import CONFIG, beside, config_of, read_config
from experiments.options.flags import in_flags
from experiments.options.run_options import ABOUT, run_command
from experiments.resolve import Resolved, resolve
from experiments.terminal.log import tell_warnings_plainly

if TYPE_CHECKING:
    from experiments.whole_run import Verbosity

OPTIONS = [
    CONFIG,
    Option("verbose", bool, "Print every metric.", "The terminal", nargs=0),
    Option("quiet", bool, "Print the tables at the end only.", "The terminal", nargs=0),
]
COMMAND = run_command("python -m experiments.run", ABOUT, OPTIONS)


def run(
    arguments: Arguments,
    *,
    experiences: int | None = None,
    watch: Callable[[Any], None] = lambda strategy: None,
    verbosity: Verbosity = "normal",
) -> dict[str, Any]:
    """Make one whole run, and write its files into ``arguments.output``.

    A run that was killed continues from the last checkpoint in that folder; one that has finished is not made again.
    Several processes, as torchrun starts them, make the run together; the first writes the files.

    Args:
        arguments: The arguments that somebody gave.
        experiences: Only so many experiences of the stream are learned; by default all.
        watch: Called with the strategy before anything is measured or trained; it may add plugins.
        verbosity: "normal" prints a line on the progress, a line for each experience, and tables at the end;
            "verbose" every metric too; "quiet" the tables only.

    Returns:
        The contents of ``results.json``: the accuracies and their summary, those of the baselines and the published
        ones, the magnitudes, parameters and reductions after each experience, what figures are drawn from, the whole
        configuration, versions and seconds.

    Raises:
        ValueError: An argument cannot be used; nothing has been trained or written.
        RuntimeError: Weights or images are missing and cannot be downloaded.
        FloatingPointError: The loss became NaN or infinite.
        StoppedError: Ctrl-C was pressed; the message says what was kept.
    """
    launched.join()
    resolved = _alike(resolve(arguments))
    output = Path(str(resolved.arguments.output))
    if resolved.arguments.figures == "all" and launched.several():
        raise ValueError("figures='all': for runs of one process; expected 'default' or 'none' for several")
    check_output(output)
    if (results := finished(resolved)) is not None:
        print(f"this run has finished: Acc {results['acc']:.2f}; results.json and all other files are in {output}")
        return results

    from experiments.whole_run import make_run

    return make_run(resolved, experiences=experiences, watch=watch, verbosity=verbosity)


def _alike(resolved: Resolved) -> Resolved:
    """The same output folder in all processes, each of which may have named it by a time of its own."""
    output = launched.of_first(resolved.arguments.output)
    return dataclasses.replace(resolved, arguments=dataclasses.replace(resolved.arguments, output=output))


def main() -> None:
    """The command line; of several processes, the first speaks."""
    tell_warnings_plainly()
    try:
        if not launched.join():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
        values = read_config(path) if (path := config_of(sys.argv[1:])) else {}
        given = COMMAND.parse(known=values)
        given = beside(str(given.pop("config", "")), values, given)
        chosen = [option.name for option in OPTIONS if given.pop(option.name, False)]
        if len(chosen) > 1:
            raise ValueError("--verbose and --quiet: expected one of them")
        run(Arguments.from_flat(given), verbosity=chosen[0] if chosen else "normal")  # type: ignore[arg-type]
    except KeyboardInterrupt as interrupt:
        launched.last_words(interrupt)
        leave(interrupt)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        launched.last_words(error)
        sys.exit(f"error: {in_flags(error)}")


if __name__ == "__main__":
    main()
