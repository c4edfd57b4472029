"""Train a method on a data set and report: ``python -m experiments.run digits``."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from pathlib import Path
from typing import Any

import timm
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import InteractiveLogger, TensorboardLogger
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin
from jsonargparse import ArgumentParser
from torch import nn

from avalanche_sdlora import Checkpoint, save_adapters
from avalanche_sdlora.backbones import create_backbone
from avalanche_sdlora.metrics import AccuracyMatrix
from avalanche_sdlora.persistence.eventfiles import rewind_events
from benchmarks import InputSpec, check_folder, make_benchmark
from experiments.arguments import Arguments
from experiments.baselines import frozen_baselines
from experiments.methods import METHODS, joined
from experiments.predict import serving_notes
from experiments.recipe import published, recipe_of
from experiments.report import environment, plot_accuracy_matrix, print_report, write_json


def run(arguments: Arguments) -> dict[str, Any]:
    """One whole run; writes its files into ``arguments.output``.

    A run that was killed continues from the last checkpoint in that folder.

    Returns:
        What ``results.json`` holds: the accuracies and their summary, also the baseline's and the published ones, the
        magnitudes, parameters and reductions after each experience, the whole configuration, versions and seconds.

    Raises:
        ValueError: An argument cannot be used; nothing has been trained or written.
        RuntimeError: Weights or images cannot be had.
        FloatingPointError: The loss became NaN or infinite.
    """
    begun = time.perf_counter()
    arguments = arguments.resolved()
    method = METHODS[arguments.method]
    settings = method.describe(arguments)
    output = Path(str(arguments.output))
    if (output / "results.json").exists():
        raise ValueError(f"output={arguments.output!r} holds the results of another run; name a new folder")
    # The notes are what this function gathers; they are saved with every checkpoint.
    checkpoint = Checkpoint(output, {**dataclasses.asdict(arguments), "output": None})
    notes = checkpoint.notes
    clock = _Stopwatch(notes.setdefault("seconds", {"total": 0.0}), begun)
    backbone, inputs, benchmark = prepare(arguments)
    model = method.model(backbone, arguments)  # the last thing that may be refused
    board = TensorboardLogger(str(output / "tensorboard"))
    if not checkpoint.found:
        rewind_events(board.writer, {})  # of a run that was killed before there was anything to continue from
    if method.resumable:
        print(f"writing to {output}; should this run be killed, the same command with --output {output} continues it")
    strategy = method.strategy(
        model,
        arguments,
        train_mb_size=int(arguments.batch_size or 1),
        train_epochs=int(arguments.epochs or 1),
        eval_mb_size=128,
        device=arguments.device,
        evaluator=EvaluationPlugin(
            accuracy_metrics(epoch=True, experience=True, stream=True),
            loss_metrics(epoch=True, experience=True, stream=True),
            *method.metrics(),
            loggers=[InteractiveLogger(), board],
        ),
    )
    clock.lap("prepare")
    if "baselines" not in notes:
        found = _baselines(strategy, benchmark, arguments) if arguments.baselines else {}
        notes["baselines"] = {name: [matrix.rows(), matrix.samples.tolist()] for name, matrix in found.items()}
    baselines = {name: AccuracyMatrix.from_rows(*found) for name, found in notes["baselines"].items()}
    clock.lap("baseline")

    stream = joined(benchmark.train_stream) if method.joint else benchmark.train_stream
    before = len(benchmark.test_stream) - len(stream)  # moments at which nothing is measured
    rows: list[list[float] | None] = notes.setdefault("rows", [None] * before)
    reports: list[dict[str, Any]] = notes.setdefault("reports", [])
    checkpoint.before_saving = lambda: clock.lap("train")
    for experience in checkpoint.resume(strategy, stream) if method.resumable else stream:
        strategy.train(experience, eval_streams=[], num_workers=arguments.workers)
        clock.lap("train")
        metrics = strategy.eval(benchmark.test_stream[: len(rows) + 1], num_workers=arguments.workers)
        rows.append(_accuracies(metrics))
        reports.append(_reports(strategy.model))
        clock.lap("evaluate")
    board.writer.flush()

    matrix = AccuracyMatrix.from_rows(rows, [len(e.dataset) for e in benchmark.test_stream])
    same_backbone = arguments.backbone == recipe_of(arguments.dataset, "paper")["backbone"]
    others = published(arguments.dataset, len(matrix)) if same_backbone else {}
    results = {
        "accuracy_matrix": matrix.rows(),
        "test_samples": matrix.samples.tolist(),
        **matrix.summary(),
        "baselines": {name: {"accuracy_matrix": found.rows(), **found.summary()} for name, found in baselines.items()},
        "published": others,
        **{name: [report[name] for report in reports] for name in reports[0]},
        "trainable_parameters": sum(p.numel() for group in strategy.optimizer.param_groups for p in group["params"]),
        "seed": arguments.seed,
        "class_order": benchmark.class_order,
        "images": benchmark.source,
        "images_digest": benchmark.digest,
        "images_skipped": list(benchmark.skipped),
        "inputs": dataclasses.asdict(inputs),
        "method": method.label,
        "config": settings,
        "arguments": dataclasses.asdict(arguments),
        "environment": environment(),
        "seconds": clock.seconds,
    }
    print_report(
        method.label,
        matrix,
        {f"{name.replace('_', ' ')}, frozen": found for name, found in baselines.items()}
        | {f"published: {name}": summary for name, summary in others.items()},
        parameters=results.get("parameters", [None])[-1],
    )
    plot_accuracy_matrix(output / "accuracy_matrix.png", matrix, f"{method.label} on {arguments.dataset}")
    if method.frozen:
        save_adapters(
            strategy.model,
            output / "adapters.safetensors",
            class_names=benchmark.class_names,
            notes=serving_notes(arguments, inputs),
        )
    write_json(output / "results.json", results)  # last: a folder that has it holds a finished run
    checkpoint.remove()
    print(f"results.json, accuracy_matrix.png, adapters and TensorBoard events are in {output}")
    return results


def prepare(arguments: Arguments) -> tuple[nn.Module, InputSpec, Any]:
    """Seeds every generator and makes the backbone, what it expects of images, and the benchmark.

    Args:
        arguments: Resolved.

    Raises:
        ValueError: An argument cannot be used.
        RuntimeError: Weights or images cannot be had.
    """
    check_folder(arguments.dataset, arguments.data)  # before any weights are fetched
    RNGManager.set_random_seeds(arguments.seed)
    # Measured: on a CPU the fused attention kernel makes a training step up to a third slower than plain products.
    timm.layers.set_fused_attn(arguments.device != "cpu")
    backbone = create_backbone(str(arguments.backbone), weights=arguments.weights, img_size=arguments.image_size)
    inputs = _inputs(backbone, arguments)
    return backbone, inputs, _benchmark(arguments, inputs)


def _inputs(backbone: nn.Module, arguments: Arguments) -> InputSpec:
    inputs = InputSpec.of(backbone)
    if arguments.normalization == "none":
        return dataclasses.replace(inputs, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return inputs


def _benchmark(arguments: Arguments, inputs: InputSpec) -> Any:
    options = ("seed", "augment", "cache", "cache_mb", "validation", "split", "class_order", "strict")
    benchmark = make_benchmark(
        arguments.dataset,
        inputs=inputs,
        n_experiences=arguments.tasks,
        root=arguments.data,
        **{name: getattr(arguments, name) for name in options},
    )
    if benchmark.skipped:
        print(f"{len(benchmark.skipped)} images cannot be read and are left out; results.json will name them")
    return benchmark


def _baselines(strategy: Any, benchmark: Any, arguments: Arguments) -> dict[str, AccuracyMatrix]:
    """What needs no training, by name."""
    return frozen_baselines(
        strategy.model.to(strategy.device).eval().features,
        benchmark.train_stream,
        benchmark.test_stream,
        batch_size=128,
        device=strategy.device,
        num_workers=arguments.workers,
    )


def _reports(model: Any) -> dict[str, Any]:
    """What the model tells of itself after an experience; models differ in what they have to tell."""
    told: dict[str, Any] = {}
    if hasattr(model, "magnitude_report"):
        told["magnitudes"] = model.magnitude_report()
    if hasattr(model, "parameter_report"):
        told["parameters"] = model.parameter_report()
    if hasattr(model, "reductions"):
        told["reductions"] = [dataclasses.asdict(record) for record in model.reductions]
    return told


class _Stopwatch:
    """Wall-clock seconds by phase, added to those of ``seconds``, from the moment ``begun``."""

    def __init__(self, seconds: dict[str, float], begun: float) -> None:
        self.seconds = seconds
        self._last = begun

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        for name in (phase, "total"):
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _accuracies(metrics: dict[str, Any]) -> list[float]:
    """Percent on each test experience, from the names that Avalanche gives its metrics."""
    found = {}
    for name, value in metrics.items():
        if match := re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/(?:Task\d+/)?Exp(\d+)", name):
            found[int(match[1])] = 100 * float(value)
    return [found[j] for j in range(len(found))]


def main() -> None:
    """The command line."""
    try:
        parser = ArgumentParser(description="Train a method on the experiences of a data set, and report.")
        parser.add_class_arguments(Arguments, as_group=False, as_positional=True)
        run(Arguments(**parser.parse_args().as_dict()))
    except (ValueError, RuntimeError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
