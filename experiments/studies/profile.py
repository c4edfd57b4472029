"""Where the wall clock of a run goes: ``python -m experiments.profile_run digits``.

A run of :mod:`experiments.run` with all that belongs to it, only shorter: the first experiences of the stream and
a few epochs. Timers stand around the strategy's forward, criterion, backward and optimizer steps, its loaders and its
plugins; nothing in the library knows of them. ``folder`` without a path profiles a folder of generated photographs.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import base, base_sgd
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from avalanche_sdlora import SDLoRAStrategy
from avalanche_sdlora.backbones import create_backbone
from avalanche_sdlora.heads import passes
from benchmarks import make_benchmark
from experiments import methods, run
from experiments.arguments import Arguments
from experiments.photographs import write_photographs
from experiments.report import environment, write_json
from experiments.spans import SpanClock, TimedLoader

MODEL = ("forward", "loss", "backward", "optimizer")
PARTS = (*MODEL, "loading", "metrics and loggers", "plugins", "the rest")
PHASES = ("training", "evaluation", "baseline", "around")


def _timed_strategy(clock: SpanClock) -> type[SDLoRAStrategy]:
    class TimedStrategy(SDLoRAStrategy):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            with clock.phase("training"):
                return super().train(*args, **kwargs)

        def eval(self, *args: Any, **kwargs: Any) -> Any:
            with clock.phase("evaluation"):
                return super().eval(*args, **kwargs)

        def make_train_dataloader(self, **kwargs: Any) -> None:
            super().make_train_dataloader(**kwargs)
            self._time_loader()

        def make_eval_dataloader(self, **kwargs: Any) -> None:
            super().make_eval_dataloader(**kwargs)
            self._time_loader()

        def _time_loader(self) -> None:
            loader: Any = self.dataloader
            self.dataloader: Any = TimedLoader(loader, clock)

    for name, part in zip(("forward", "criterion", "backward", "optimizer_step"), MODEL, strict=True):
        setattr(TimedStrategy, name, _timed_method(clock, part, getattr(SDLoRAStrategy, name)))
    return TimedStrategy


def _timed_method(clock: SpanClock, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with clock.part(part):
            return method(self, *args, **kwargs)

    return call


class _Beginning:
    """A benchmark of which only the first experiences are seen."""

    def __init__(self, benchmark: Any, experiences: int) -> None:
        self._benchmark = benchmark
        self.train_stream = benchmark.train_stream[:experiences]
        self.test_stream = benchmark.test_stream[:experiences]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._benchmark, name)


def profile(arguments: Arguments, *, experiences: int = 1, random_weights: bool = False) -> dict[str, Any]:
    """Run the first experiences with timers; the run's own files go to a folder that is removed.

    Args:
        arguments: Of the run; where they leave ``epochs`` open, two, of which the first fills the cache if there is
            one.
        experiences: How many experiences are trained, and evaluated after each.
        random_weights: Build the backbone without its weights, which costs the same time and no download.

    Returns:
        ``seconds`` and ``share`` by phase and part, ``model_share`` by phase and ``total``, and what was run.

    Raises:
        ValueError: As :func:`experiments.run.run`, like the other errors of a run.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        arguments = dataclasses.replace(arguments, output=folder, epochs=arguments.epochs or 2).resolved()
        on_cuda = torch.device(arguments.device).type == "cuda"
        clock = SpanClock(torch.cuda.synchronize if on_cuda else None)

        def trigger(strategy: Any, event: str, **kwargs: Any) -> None:
            for plugin in strategy.plugins:
                if hasattr(plugin, event):
                    with clock.part("metrics and loggers" if isinstance(plugin, EvaluationPlugin) else "plugins"):
                        getattr(plugin, event)(strategy, **kwargs)

        def baseline(features: Any, *args: Any, **kwargs: Any) -> Any:
            with clock.phase("baseline"):
                return frozen_baselines(clock.timed("forward", features), *args, **kwargs)

        def loader(*args: Any, **kwargs: Any) -> Any:
            return TimedLoader(data_loader(*args, **kwargs), clock)

        frozen_baselines, data_loader = run.frozen_baselines, passes.DataLoader
        replaced: list[tuple[Any, str, Any]] = [
            (base, "trigger_plugins", trigger),
            (base_sgd, "trigger_plugins", trigger),
            (passes, "DataLoader", loader),
            (run, "frozen_baselines", baseline),
            (methods, "SDLoRAStrategy", _timed_strategy(clock)),
            (run, "make_benchmark", lambda *a, **k: _Beginning(make_benchmark(*a, **k), experiences)),
        ]
        if random_weights:
            arguments = dataclasses.replace(arguments, weights=None)
            replaced.append((run, "create_backbone", _without_weights))
        for where, name, function in replaced:
            stack.enter_context(patch.object(where, name, function))
        clock.read()
        clock.seconds.clear()
        run.run(arguments)
        clock.read()
    return {
        **_shares(clock.seconds),
        "experiences": experiences,
        "random_weights": random_weights,
        "arguments": dataclasses.asdict(dataclasses.replace(arguments, output=None)),
        "environment": environment(),
    }


def _without_weights(name: str, **kwargs: Any) -> torch.nn.Module:
    return create_backbone(name, pretrained=False, img_size=kwargs.get("img_size"))


def _shares(spans: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """What :func:`profile` returns of the times; every share is of its own phase, those of "whole" of everything."""
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
    """The command line: the run's own options and three more."""
    parser = ArgumentParser(description="Profile the beginning of a run of experiments.run.")
    parser.add_class_arguments(Arguments, as_group=False, as_positional=True)
    parser.add_argument("--experiences", type=int, default=1, help="experiences to train and evaluate")
    parser.add_argument("--random_weights", action="store_true", help="build the backbone without its weights")
    parser.add_argument("--photographs", type=int, default=5000, help="images to generate for a folder without a path")
    options = parser.parse_args().as_dict()
    experiences, random_weights = options.pop("experiences"), options.pop("random_weights")
    n_photographs = options.pop("photographs")
    arguments = Arguments(**options)
    output = Path(arguments.output or Path("runs", f"profile-{datetime.now():%Y%m%d-%H%M%S}"))
    try:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.dataset.lower() == "folder" and arguments.data is None:
                write_photographs(Path(folder), n_photographs)
                arguments = dataclasses.replace(arguments, dataset=f"folder:{folder}")
            result = profile(arguments, experiences=experiences, random_weights=random_weights)
    except (ValueError, RuntimeError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    print_profile(result)
    write_json(output / "profile.json", result)
    print(f"profile.json is in {output}")


if __name__ == "__main__":
    main()
