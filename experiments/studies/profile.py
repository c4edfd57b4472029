"""Where the wall clock of a run goes: ``python -m experiments.studies.profile digits``.

A run of :mod:`experiments.run` with all that belongs to it, only shorter: the first experiences of the stream and a few
epochs. Time is booked at Avalanche's callbacks (:mod:`experiments.studies.marks`), so that nothing in the library knows
of it. ``folder`` without a path profiles a folder of generated photographs.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from avalanche_sdlora.backbones import create_backbone
from experiments.arguments import Arguments
from experiments.interruption import until_stopped
from experiments.options.commandline import Option, taken
from experiments.options.flags import in_flags
from experiments.options.run_options import run_command
from experiments.resolve import resolve
from experiments.results import environment, write_json
from experiments.run import run
from experiments.studies.marks import Clock, watch
from experiments.studies.photographs import write_photographs

MODEL = ("forward", "loss", "backward", "optimizer")
PARTS = (*MODEL, "loading", "metrics and loggers", "plugins", "the rest")
PHASES = ("training", "evaluation", "baseline", "around")

OPTIONS = [
    Option("experiences", int, "Experiences to train and evaluate; 1 by default.", "The profile"),
    Option("random_weights", bool, "Build the backbone without its weights.", "The profile", nargs=0),
    Option("photographs", int, "Images to generate for a folder without a path; 5000 by default.", "The profile"),
]
COMMAND = run_command(
    "python -m experiments.studies.profile", "Profile the beginning of a run of experiments.run.", OPTIONS
)


def profile(arguments: Arguments, *, experiences: int = 1, random_weights: bool = False) -> dict[str, Any]:
    """Run the first experiences and book their time; the run's own files go to a folder that is removed.

    Args:
        arguments: Of the run; where they leave ``epochs`` open, two, of which the first fills the cache if there is
            one.
        experiences: How many experiences are trained, and evaluated after each.
        random_weights: Give the backbone random weights, which take as long and need no download.

    Returns:
        ``seconds`` and ``share`` by phase and part, ``model_share`` by phase and ``total``, and the run's arguments.

    Raises:
        ValueError: As :func:`experiments.run.run`, whose other errors are raised too.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = dataclasses.replace(arguments, output=str(Path(folder, "run")), epochs=arguments.epochs or 2)
        if random_weights:
            arguments = dataclasses.replace(arguments, weights=_random_weights(arguments, Path(folder)))
        arguments = resolve(arguments).arguments
        on_cuda = torch.device(arguments.device).type == "cuda"
        clock = Clock(torch.cuda.synchronize if on_cuda else None)
        run(arguments, experiences=experiences, watch=lambda strategy: watch(strategy, clock))
        clock.book("the rest")
    return {
        **_shares(clock.seconds),
        "experiences": experiences,
        "random_weights": random_weights,
        "arguments": dataclasses.replace(arguments, output=None, weights=None).flat(),
        "environment": environment(),
    }


def _random_weights(arguments: Arguments, folder: Path) -> str:
    """A file with random weights of the backbone."""
    name = str(resolve(arguments).arguments.backbone)
    model = create_backbone(name, pretrained=False, img_size=arguments.image_size)
    path = folder / "random.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return str(path)


def _shares(spans: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Seconds and shares as :func:`profile` returns them; a share is that of a phase, and the phase "whole" is all."""
    seconds = {phase: {part: spans.get((phase, part), 0.0) for part in PARTS} for phase in PHASES}
    seconds["whole"] = {part: sum(seconds[phase][part] for phase in PHASES) for part in PARTS}
    totals = {phase: sum(parts.values()) for phase, parts in seconds.items()}
    share = {
        phase: {part: value / totals[phase] if totals[phase] else 0.0 for part, value in parts.items()}
        for phase, parts in seconds.items()
    }
    model_share = {phase: sum(parts[part] for part in MODEL) for phase, parts in share.items()}
    return {"seconds": seconds, "share": share, "model_share": model_share, "total": totals["whole"]}


def print_profile(result: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the share of every part in percent, one column a phase, with the seconds that are 100 %."""
    phases = (*PHASES, "whole")
    table = Table(title=f"Wall clock of {result['arguments']['dataset']}: percent of each column")
    table.add_column("part")
    for phase in phases:
        table.add_column(phase, justify="right")
    for part in PARTS:
        shares = (result["share"][phase][part] for phase in phases)
        table.add_row(part, *(f"{100 * share:.1f}" if share else "" for share in shares), end_section=part == MODEL[-1])
    table.add_section()
    table.add_row("the model", *(f"{100 * result['model_share'][phase]:.1f}" for phase in phases), style="bold")
    table.add_row("seconds", *(f"{sum(result['seconds'][phase].values()):.1f}" for phase in phases))
    (console or Console()).print(table)


def main() -> None:
    """The command line: the options of a run, and three more."""
    try:
        given = COMMAND.parse()
        own = taken(given, OPTIONS)
        arguments = Arguments.from_flat(given)
        output = Path(arguments.output or Path("runs", f"profile-{datetime.now():%Y%m%d-%H%M%S}"))
        with tempfile.TemporaryDirectory() as folder:
            if arguments.dataset.lower() == "folder" and arguments.data is None:
                write_photographs(Path(folder), own.pop("photographs", 5000))
                arguments = dataclasses.replace(arguments, dataset=f"folder:{folder}")
            result = profile(arguments, experiences=own.get("experiences", 1), random_weights="random_weights" in own)
    except (ValueError, RuntimeError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")
    print_profile(result)
    write_json(output / "profile.json", result)
    print(f"profile.json is in {output}")


if __name__ == "__main__":
    until_stopped(main)
