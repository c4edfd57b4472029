"""Train SD-LoRA on a data set and report: ``python -m experiments.run digits``."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import InteractiveLogger, TensorboardLogger
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin
from jsonargparse import ArgumentParser

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel, SDLoRAStrategy
from avalanche_sdlora.backbones import create_backbone
from avalanche_sdlora.logging_metrics import magnitude_metrics
from avalanche_sdlora.metrics import AccuracyMatrix
from benchmarks import InputSpec, benchmark_name, make_benchmark
from benchmarks.folder import find_images
from experiments.baselines import nearest_class_mean
from experiments.report import environment, plot_accuracy_matrix, print_report, write_json

PRESETS: dict[str, Callable[..., SDLoRAConfig]] = {
    "default": SDLoRAConfig,
    "paper": SDLoRAConfig.paper,
    "reference": SDLoRAConfig.reference,
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a data set is trained with unless the command line says otherwise."""

    backbone: str
    epochs: int
    batch_size: int
    learning_rate: float


RECIPES = {
    "digits": Recipe("vit_micro_patch4_32.formula", epochs=8, batch_size=32, learning_rate=0.01),
    "cifar100": Recipe("vit_base_patch16_224.augreg2_in21k_ft_in1k", epochs=20, batch_size=128, learning_rate=0.01),
    "folder": Recipe("vit_base_patch16_224.augreg2_in21k_ft_in1k", epochs=20, batch_size=128, learning_rate=0.01),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train SD-LoRA on the experiences of a data set, one after another, and report.

    Args:
        dataset: digits, cifar100, or folder:PATH for a folder of images.
        backbone: A timm model name; the data set's recipe names one.
        weights: A local file with its weights. By default one that carries its name in the folder that the
            environment variable SDLORA_DATA names, else timm's own.
        image_size: Side of the square images in pixels; the backbone's own by default.
        tasks: Number of experiences; the data set's usual by default.
        preset: Where the settings of the method start from (see SDLoRAConfig).
        rank: Rank of each direction; overrides the preset's.
        targets: "attention.qv" or patterns of layer names, separated by commas; overrides the preset's.
        norm: Overrides the preset's.
        boundary: Overrides the preset's.
        magnitudes: Overrides the preset's.
        magnitude_init: Overrides the preset's.
        reset_magnitudes: Overrides the preset's.
        epochs: Epochs over each experience; the recipe's by default.
        batch_size: Images in a training batch; the recipe's by default.
        optimizer: sgd (with momentum 0.9) or adam.
        learning_rate: Its learning rate; the recipe's by default.
        augment: Augmentation of the training images; the data set's usual by default.
        seed: Gives the class order and every random number.
        data: Folder with the data set's files.
        cache: Keep the decoded images of folder:PATH in memory or on disk.
        cache_mb: So many MiB of them at most.
        output: Folder for results.json, accuracy_matrix.png and TensorBoard events; a new one in runs/ by default.
        device: cpu, cuda, ..., or auto.
        bfloat16: Autocast the forward pass to bfloat16.
        workers: Processes that load images.
    """

    dataset: str
    backbone: str | None = None
    weights: str | None = None
    image_size: int | None = None
    tasks: int | None = None
    preset: Literal["default", "paper", "reference"] = "default"
    rank: int | None = None
    targets: str | None = None
    norm: Literal["product", "factors"] | None = None
    boundary: Literal["continuous", "reset"] | None = None
    magnitudes: Literal["per_projection", "shared"] | None = None
    magnitude_init: float | None = None
    reset_magnitudes: bool | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float | None = None
    augment: Literal["paper", "flip", "none"] | None = None
    seed: int = 0
    data: str | None = None
    cache: Literal["memory", "disk"] | None = None
    cache_mb: float | None = None
    output: str | None = None
    device: str = "auto"
    bfloat16: bool = False
    workers: int = 0

    def resolved(self) -> Arguments:
        """These arguments with everything left open filled in from the recipe.

        Raises:
            ValueError: The data set is unknown, or a number is out of range.
        """
        dataset = benchmark_name(self.dataset)
        kind = dataset.partition(":")[0]
        recipe = dataclasses.asdict(RECIPES[kind])
        recipe["weights"] = _local_weights(self.backbone or recipe["backbone"])
        recipe["output"] = str(Path("runs", f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"))
        filled = {name: value for name, value in recipe.items() if getattr(self, name) is None}
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        complete = dataclasses.replace(self, **{**filled, "dataset": dataset, "device": device})
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(complete, name) > 0:
                raise ValueError(f"{name}={getattr(complete, name)}: expected a number above 0")
        if Path(complete.output or "", "results.json").exists():
            raise ValueError(f"output={complete.output!r} holds the results of another run; name a new folder")
        return complete

    def method(self) -> SDLoRAConfig:
        """The method's settings: the preset's, with what was given in their place."""
        given = {f.name: getattr(self, f.name, None) for f in dataclasses.fields(SDLoRAConfig)}
        if self.targets is not None:
            given["targets"] = tuple(self.targets.split(","))
        return PRESETS[self.preset](**{name: value for name, value in given.items() if value is not None})


def run(arguments: Arguments) -> dict[str, Any]:
    """One whole run; writes its files into ``arguments.output``.

    Returns:
        What ``results.json`` holds: the accuracies and their summary, also the baseline's, the magnitudes, the whole
        configuration, versions and seconds.

    Raises:
        ValueError: An argument cannot be used; nothing has been trained or written.
        RuntimeError: Weights or images cannot be had.
        FloatingPointError: The loss became NaN or infinite.
    """
    clock = _Stopwatch()
    arguments = arguments.resolved()
    config = arguments.method()
    if arguments.dataset.startswith("folder:"):
        find_images(Path(arguments.dataset.removeprefix("folder:")))  # before any weights are fetched
    RNGManager.set_random_seeds(arguments.seed)
    # Measured: on a CPU the fused attention kernel makes a training step up to a third slower than plain products.
    timm.layers.set_fused_attn(arguments.device != "cpu")
    backbone = create_backbone(str(arguments.backbone), weights=arguments.weights, img_size=arguments.image_size)
    benchmark = make_benchmark(
        arguments.dataset,
        inputs=InputSpec.of(backbone),
        n_experiences=arguments.tasks,
        seed=arguments.seed,
        root=arguments.data,
        augment=arguments.augment,
        cache=arguments.cache,
        cache_mb=arguments.cache_mb,
    )
    model = SDLoRAModel(backbone, config)  # the last thing that may be refused
    output = Path(str(arguments.output))
    board = TensorboardLogger(str(output / "tensorboard"))
    strategy = SDLoRAStrategy(
        model=model,
        optimizer=partial(OPTIMIZERS[arguments.optimizer], lr=arguments.learning_rate),
        autocast=torch.bfloat16 if arguments.bfloat16 else None,
        train_mb_size=int(arguments.batch_size or 1),
        train_epochs=int(arguments.epochs or 1),
        eval_mb_size=128,
        device=arguments.device,
        evaluator=EvaluationPlugin(
            accuracy_metrics(epoch=True, experience=True, stream=True),
            loss_metrics(epoch=True, experience=True, stream=True),
            magnitude_metrics(),
            loggers=[InteractiveLogger(), board],
        ),
    )
    clock.lap("prepare")
    frozen = nearest_class_mean(
        strategy.model.to(strategy.device).eval().features,
        benchmark.train_stream,
        benchmark.test_stream,
        batch_size=128,
        device=strategy.device,
        num_workers=arguments.workers,
    )
    clock.lap("baseline")
    rows, magnitudes = [], []
    for i, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[], num_workers=arguments.workers)
        clock.lap("train")
        metrics = strategy.eval(benchmark.test_stream[: i + 1], num_workers=arguments.workers)
        rows.append(_accuracies(metrics))
        magnitudes.append(strategy.model.magnitude_report())
        clock.lap("evaluate")
    board.writer.flush()

    matrix = AccuracyMatrix.from_rows(rows, [len(e.dataset) for e in benchmark.test_stream])
    print_report("SD-LoRA", matrix, {"nearest class mean, frozen": frozen})
    results = {
        "accuracy_matrix": matrix.rows(),
        "test_samples": matrix.samples.tolist(),
        **matrix.summary(),
        "baselines": {"nearest_class_mean": {"accuracy_matrix": frozen.rows(), **frozen.summary()}},
        "magnitudes": magnitudes,
        "trainable_parameters": sum(p.numel() for group in strategy.optimizer.param_groups for p in group["params"]),
        "seed": arguments.seed,
        "class_order": benchmark.class_order,
        "images": benchmark.source,
        "inputs": dataclasses.asdict(InputSpec.of(backbone)),
        "config": dataclasses.asdict(config),
        "arguments": dataclasses.asdict(arguments),
        "environment": environment(),
        "seconds": clock.seconds,
    }
    write_json(output / "results.json", results)
    plot_accuracy_matrix(output / "accuracy_matrix.png", matrix, f"SD-LoRA on {arguments.dataset}")
    print(f"results.json, accuracy_matrix.png and TensorBoard events are in {output}")
    return results


class _Stopwatch:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"total": 0.0}
        self._last = time.perf_counter()

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


def _local_weights(backbone: str) -> str | None:
    """The file of ``backbone``'s weights in the folder SDLORA_DATA, if there is one."""
    folder = os.environ.get("SDLORA_DATA")
    files = sorted(Path(folder).glob(f"{backbone}*.safetensors")) if folder else []
    return str(files[0]) if files else None


def main() -> None:
    """The command line."""
    try:
        parser = ArgumentParser(description="Train SD-LoRA on the experiences of a data set, and report.")
        parser.add_class_arguments(Arguments, as_group=False, as_positional=True)
        run(Arguments(**parser.parse_args().as_dict()))
    except (ValueError, RuntimeError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
