"""One run from its beginning to its files: images and model, training and evaluation, results and report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger, TensorboardLogger, TextLogger
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from avalanche_sdlora import Checkpoint, SDLoRAModel, processes, save_adapters
from avalanche_sdlora.backbones import create_backbone, drop_patches
from avalanche_sdlora.metrics import AccuracyMatrix, experience_accuracies
from avalanche_sdlora.persistence.eventfiles import rewind_events
from benchmarks import InputSpec, check_folder, make_benchmark
from experiments.arguments import Arguments
from experiments.baselines import frozen_baselines
from experiments.costly import Costly
from experiments.interruption import stopped
from experiments.kept_features import KeptFeatures
from experiments.methods import joined
from experiments.observed import Observer
from experiments.options.config_file import write_config
from experiments.outcome import leave_figures, opening, results_of, show
from experiments.predict import serving_notes
from experiments.report.model_card import write_model_card
from experiments.resolve import Resolved
from experiments.results import write_json
from experiments.terminal.log import logged
from experiments.terminal.progress import Progress

Verbosity = Literal["normal", "verbose", "quiet"]


def make_run(
    resolved: Resolved,
    *,
    experiences: int | None = None,
    watch: Callable[[Any], None] = lambda strategy: None,
    verbosity: Verbosity = "normal",
) -> dict[str, Any]:
    """Make a run that has not finished, as :func:`experiments.run.run` describes.

    Args:
        resolved: The run.
        experiences: As for :func:`experiments.run.run`.
        watch: As for :func:`experiments.run.run`.
        verbosity: As for :func:`experiments.run.run`.

    Returns:
        The contents of ``results.json``.

    Raises:
        ValueError: As :func:`experiments.run.run`, whose other errors are raised too.
    """
    begun = time.perf_counter()
    arguments, method = resolved.arguments, resolved.method
    output = Path(str(arguments.output))
    # The notes gather the results; they are saved with every checkpoint.
    checkpoint = Checkpoint(output, resolved.values())
    notes = checkpoint.notes
    clock = _Stopwatch(notes.setdefault("seconds", {"total": 0.0}), begun)
    backbone, inputs, benchmark = prepare(arguments, partial(_model, resolved))
    kept = None
    if arguments.baselines and arguments.keep_features and not processes.several():
        kept = KeptFeatures(arguments.keep_features, backbone, arguments.device, arguments.precision)
    model = _model(resolved, backbone)  # the last thing that may be refused
    with logged(output / "log.txt") if processes.is_first() else nullcontext():
        train, test = benchmark.train_stream[:experiences], benchmark.test_stream[:experiences]
        stream = joined(train) if method.joint else train
        quiet = verbosity == "quiet"
        if not quiet:
            print(opening(resolved, benchmark.source, train, test))
        observer = Observer(one_by_one=not method.joint)
        progress = board = None
        loggers: list[BaseLogger] = []
        if processes.is_first():
            write_config(output / "config.toml", resolved.values())
            progress = Progress([len(e.dataset) for e in stream], int(arguments.epochs or 1), quiet=quiet)
            board = TensorboardLogger(str(output / "tensorboard"))
            loggers = [progress, board, *([TextLogger()] if verbosity == "verbose" else [])]
            if not checkpoint.found:
                rewind_events(board.writer, {})  # events of a run that was killed before its first checkpoint
        evaluator = _evaluator(resolved, observer, loggers)
        strategy = method.strategy(model, arguments, **loop_settings(arguments), evaluator=evaluator)
        watch(strategy)
        clock.lap("prepare")
        if "baselines" not in notes:
            found = _baselines(strategy, train, test, arguments.workers, kept) if arguments.baselines else {}
            notes["baselines"] = {
                name: [matrix.rows(), matrix.samples.tolist(), matrix.balanced] for name, matrix in found.items()
            }
        clock.lap("baseline")
        costly = None
        if arguments.figures == "all" and not method.joint:
            costly = Costly(strategy, train, test, arguments.workers, notes)
        clock.lap("figures")

        before = len(test) - len(stream)  # moments at which joint training measures nothing
        rows: list[list[float] | None] = notes.setdefault("rows", [None] * before)
        reports: list[dict[str, Any]] = notes.setdefault("reports", [])
        checkpoint.before_saving = lambda: clock.lap("train")
        try:
            for experience in checkpoint.resume(strategy, stream) if method.resumable else stream:
                strategy.train(experience, eval_streams=[], num_workers=arguments.workers)
                clock.lap("train")
                done = len(rows) + 1
                if arguments.evaluates(done, len(test)):
                    metrics = strategy.eval(test[:done], num_workers=arguments.workers)
                    rows.append(experience_accuracies(metrics))
                    reports.append({**_reports(strategy.model), "observed": observer.report()})
                else:
                    _draw_as_evaluation(done)
                    rows.append(None)
                    reports.append({**_reports(strategy.model), "observed": None})
                clock.lap("evaluate")
                if costly is not None:
                    costly.after(len(reports), observer.solutions.solutions)
                    clock.lap("figures")
        except KeyboardInterrupt:
            again = f"the same command with --output {output}"
            raise stopped(checkpoint, len(stream), again, resumable=method.resumable) from None
        finally:
            if progress is not None:
                progress.close()

        observed = observer.results(strategy, reports, before)
        if costly is not None:
            observed |= costly.results(rows)
        if board is None:  # the first process writes the files
            return results_of(resolved, benchmark, inputs, strategy, notes, observed)
        if arguments.figures != "none":
            observed["most_wrong"] = observer.save_most_wrong(output / "figures", test, inputs)
        results = results_of(resolved, benchmark, inputs, strategy, notes, observed)
        show(results)
        if method.frozen:
            save_adapters(
                strategy.model,
                output / "adapters.safetensors",
                class_names=benchmark.class_names,
                notes=serving_notes(arguments, inputs),
            )
            write_model_card(output / "README.md", results)
        clock.lap("figures")
        leave_figures(output, results, board.writer)
        write_json(output / "results.json", results)  # a folder that has it holds a finished run
        checkpoint.remove()
        print(f"results.json, adapters, figures and TensorBoard events are in {output}")
    return results


def prepare(
    arguments: Arguments, check: Callable[[nn.Module], Any] = lambda backbone: None
) -> tuple[nn.Module, InputSpec, Any]:
    """Seed every generator and make the backbone, the specification of its inputs, and the benchmark.

    Weights come last: whatever is wrong with images and settings is known before anything is fetched.

    Args:
        arguments: Resolved.
        check: Called with a backbone without weights; raises what would be refused of the whole one.

    Raises:
        ValueError: An argument cannot be used.
        RuntimeError: Weights or images are missing and cannot be downloaded.
    """
    check_folder(arguments.dataset, arguments.data)
    RNGManager.set_random_seeds(arguments.seed)
    # Measured: on a CPU the fused attention kernel makes a training step up to a third slower than plain products.
    timm.layers.set_fused_attn(arguments.device != "cpu")
    name, size = str(arguments.backbone), arguments.image_size
    shape = _without_weights(name, size)
    inputs = InputSpec.of(shape)
    check(shape)
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
    RNGManager.set_random_seeds(arguments.seed)
    return create_backbone(name, weights=arguments.weights, img_size=size), inputs, benchmark


def _without_weights(name: str, size: int | None) -> nn.Module:
    """The backbone with weights of no value, and of no memory where the architecture allows it."""
    try:
        with torch.device("meta"):
            return create_backbone(name, pretrained=False, img_size=size)
    except (RuntimeError, NotImplementedError):  # it computes with numbers while it is built
        return create_backbone(name, pretrained=False, img_size=size)


def _model(resolved: Resolved, backbone: nn.Module) -> SDLoRAModel:
    """The model that trains, of a backbone that is adapted in place."""
    if resolved.arguments.patch_drop or resolved.arguments.later_patch_drop:
        drop_patches(backbone, resolved.arguments.patch_drop or 0.0)  # also what says that a backbone has none
    model = resolved.method.model(backbone, resolved.config)
    if resolved.arguments.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


def loop_settings(arguments: Arguments) -> dict[str, Any]:
    """The arguments of Avalanche's training loop, from resolved arguments."""
    return {
        "train_mb_size": int(arguments.batch_size or 1),
        "train_epochs": int(arguments.epochs or 1),
        "eval_mb_size": 128,
        "device": arguments.device,
    }


def _evaluator(resolved: Resolved, observer: Observer, loggers: Sequence[BaseLogger]) -> EvaluationPlugin:
    return EvaluationPlugin(
        accuracy_metrics(epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True, stream=True),
        *resolved.method.metrics(),
        *observer.metrics,
        loggers=list(loggers),
    )


def _baselines(
    strategy: Any, train: Sequence[Any], test: Sequence[Any], workers: int, kept: KeptFeatures | None
) -> dict[str, AccuracyMatrix]:
    """The accuracies of the training-free classifiers, by name; features that are kept are not computed."""
    features = strategy.model.to(strategy.device).eval().features
    return frozen_baselines(
        features if kept is None else kept.of(features),
        train,
        test,
        batch_size=128,
        device=strategy.device,
        num_workers=workers,
    )


def _reports(model: Any) -> dict[str, Any]:
    """The reports of a model after an experience."""
    return {
        "magnitudes": model.magnitude_report(),
        "parameters": model.parameter_report(),
        "reductions": [dataclasses.asdict(record) for record in model.reductions],
        "decisions": model.decision,
    }


def _draw_as_evaluation(experiences: int) -> None:
    """Draws the random numbers that an evaluation draws, so that training goes on as if there had been one.

    They are one for the loader of each experience (:class:`torch.utils.data.DataLoader`).
    """
    for _ in range(experiences):
        torch.empty((), dtype=torch.int64).random_()


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
