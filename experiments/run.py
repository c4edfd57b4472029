"""Train a method on a data set and report: ``python -m experiments.run digits``."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import InteractiveLogger, TensorboardLogger
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from avalanche_sdlora import Checkpoint, save_adapters
from avalanche_sdlora.backbones import create_backbone
from avalanche_sdlora.metrics import AccuracyMatrix, experience_accuracies
from avalanche_sdlora.persistence.eventfiles import rewind_events
from benchmarks import InputSpec, check_folder, make_benchmark
from experiments.arguments import Arguments
from experiments.baselines import frozen_baselines
from experiments.methods import joined
from experiments.options.run_options import ABOUT, run_command
from experiments.predict import serving_notes
from experiments.recipes import published, recipe_of
from experiments.report import environment, plot_accuracy_matrix, print_report, write_json
from experiments.resolve import Resolved, resolve

COMMAND = run_command("python -m experiments.run", ABOUT)


def run(
    arguments: Arguments, *, experiences: int | None = None, watch: Callable[[Any], None] = lambda strategy: None
) -> dict[str, Any]:
    """Make one whole run, and write its files into ``arguments.output``.

    A run that was killed continues from the last checkpoint in that folder.

    Args:
        arguments: What somebody asked for.
        experiences: Only so many experiences of the stream are learned; by default all.
        watch: Called with the strategy before anything is measured or trained; it may add plugins.

    Returns:
        The contents of ``results.json``: the accuracies and their summary, those of the baselines and the published
        ones, the magnitudes, parameters and reductions after each experience, the whole configuration, versions and
        seconds.

    Raises:
        ValueError: An argument cannot be used; nothing has been trained or written.
        RuntimeError: Weights or images are missing and cannot be downloaded.
        FloatingPointError: The loss became NaN or infinite.
    """
    begun = time.perf_counter()
    resolved = resolve(arguments)
    arguments, method = resolved.arguments, resolved.method
    output = Path(str(arguments.output))
    if (output / "results.json").exists():
        raise ValueError(f"output={arguments.output!r} holds the results of another run; name a new folder")
    # The notes are what this function gathers; they are saved with every checkpoint.
    checkpoint = Checkpoint(output, {**arguments.flat(), "output": None})
    notes = checkpoint.notes
    clock = _Stopwatch(notes.setdefault("seconds", {"total": 0.0}), begun)
    backbone, inputs, benchmark = prepare(arguments)
    model = method.model(backbone, resolved.config)  # the last thing that may be refused
    board = TensorboardLogger(str(output / "tensorboard"))
    if not checkpoint.found:
        rewind_events(board.writer, {})  # events of a run that was killed before its first checkpoint
    if method.resumable:
        print(f"writing to {output}; should this run be killed, the same command with --output {output} continues it")
    strategy = method.strategy(model, arguments, **loop_settings(arguments), evaluator=_evaluator(resolved, board))
    watch(strategy)
    clock.lap("prepare")
    train, test = benchmark.train_stream[:experiences], benchmark.test_stream[:experiences]
    if "baselines" not in notes:
        found = _baselines(strategy, train, test, arguments.workers) if arguments.baselines else {}
        notes["baselines"] = {name: [matrix.rows(), matrix.samples.tolist()] for name, matrix in found.items()}
    clock.lap("baseline")

    stream = joined(train) if method.joint else train
    before = len(test) - len(stream)  # moments at which joint training measures nothing
    rows: list[list[float] | None] = notes.setdefault("rows", [None] * before)
    reports: list[dict[str, Any]] = notes.setdefault("reports", [])
    checkpoint.before_saving = lambda: clock.lap("train")
    for experience in checkpoint.resume(strategy, stream) if method.resumable else stream:
        strategy.train(experience, eval_streams=[], num_workers=arguments.workers)
        clock.lap("train")
        metrics = strategy.eval(test[: len(rows) + 1], num_workers=arguments.workers)
        rows.append(experience_accuracies(metrics))
        reports.append(_reports(strategy.model))
        clock.lap("evaluate")
    board.writer.flush()

    results = _results(resolved, benchmark, inputs, strategy, notes)
    _show(results, output / "accuracy_matrix.png", arguments.dataset)
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
    """Seed every generator and make the backbone, the specification of its inputs, and the benchmark.

    Args:
        arguments: Resolved.

    Raises:
        ValueError: An argument cannot be used.
        RuntimeError: Weights or images are missing and cannot be downloaded.
    """
    check_folder(arguments.dataset, arguments.data)  # before any weights are fetched
    RNGManager.set_random_seeds(arguments.seed)
    # Measured: on a CPU the fused attention kernel makes a training step up to a third slower than plain products.
    timm.layers.set_fused_attn(arguments.device != "cpu")
    backbone = create_backbone(str(arguments.backbone), weights=arguments.weights, img_size=arguments.image_size)
    inputs = InputSpec.of(backbone)
    if arguments.normalization == "none":
        inputs = dataclasses.replace(inputs, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
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
    return backbone, inputs, benchmark


def loop_settings(arguments: Arguments) -> dict[str, Any]:
    """What Avalanche's training loop needs to know of resolved arguments."""
    return {
        "train_mb_size": int(arguments.batch_size or 1),
        "train_epochs": int(arguments.epochs or 1),
        "eval_mb_size": 128,
        "device": arguments.device,
    }


def _evaluator(resolved: Resolved, board: TensorboardLogger) -> EvaluationPlugin:
    return EvaluationPlugin(
        accuracy_metrics(epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True, stream=True),
        *resolved.method.metrics(),
        loggers=[InteractiveLogger(), board],
    )


def _baselines(strategy: Any, train: Sequence[Any], test: Sequence[Any], workers: int) -> dict[str, AccuracyMatrix]:
    """The accuracies of the training-free classifiers, by name."""
    return frozen_baselines(
        strategy.model.to(strategy.device).eval().features,
        train,
        test,
        batch_size=128,
        device=strategy.device,
        num_workers=workers,
    )


def _reports(model: Any) -> dict[str, Any]:
    """What a model tells of itself after an experience."""
    return {
        "magnitudes": model.magnitude_report(),
        "parameters": model.parameter_report(),
        "reductions": [dataclasses.asdict(record) for record in model.reductions],
    }


def _results(
    resolved: Resolved, benchmark: Any, inputs: InputSpec, strategy: Any, notes: dict[str, Any]
) -> dict[str, Any]:
    """The contents of ``results.json``."""
    arguments, reports = resolved.arguments, notes["reports"]
    matrix = AccuracyMatrix.from_rows(notes["rows"], [len(e.dataset) for e in benchmark.test_stream])
    baselines = {name: AccuracyMatrix.from_rows(*found) for name, found in notes["baselines"].items()}
    same_backbone = arguments.backbone == recipe_of(arguments.dataset, "paper")["backbone"]
    return {
        "accuracy_matrix": matrix.rows(),
        "test_samples": matrix.samples.tolist(),
        **matrix.summary(),
        "baselines": {name: {"accuracy_matrix": found.rows(), **found.summary()} for name, found in baselines.items()},
        "published": published(arguments.dataset, len(matrix)) if same_backbone else {},
        **{name: [report[name] for report in reports] for name in reports[0]},
        "trainable_parameters": sum(p.numel() for group in strategy.optimizer.param_groups for p in group["params"]),
        "seed": arguments.seed,
        "class_order": benchmark.class_order,
        "images": benchmark.source,
        "images_digest": benchmark.digest,
        "images_skipped": list(benchmark.skipped),
        "inputs": dataclasses.asdict(inputs),
        "method": resolved.method.label,
        "config": resolved.described(),
        "arguments": arguments.flat(),
        "environment": environment(),
        "seconds": notes["seconds"],
    }


def _show(results: dict[str, Any], picture: Path, dataset: str) -> None:
    """Print the tables of a run, and draw its accuracy matrix."""
    matrix = AccuracyMatrix.from_rows(results["accuracy_matrix"], results["test_samples"])
    frozen = {
        f"{name.replace('_', ' ')}, frozen": AccuracyMatrix.from_rows(found["accuracy_matrix"], results["test_samples"])
        for name, found in results["baselines"].items()
    }
    others = {f"published: {name}": summary for name, summary in results["published"].items()}
    print_report(results["method"], matrix, frozen | others, parameters=results["parameters"][-1])
    plot_accuracy_matrix(picture, matrix, f"{results['method']} on {dataset}")


class _Stopwatch:
    """Wall-clock seconds by phase, added to those in ``seconds``, from the moment ``begun`` on."""

    def __init__(self, seconds: dict[str, float], begun: float) -> None:
        self.seconds = seconds
        self._last = begun

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        for name in (phase, "total"):
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def main() -> None:
    """The command line."""
    try:
        run(Arguments.from_flat(COMMAND.parse()))
    except (ValueError, RuntimeError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
