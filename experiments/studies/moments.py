"""Train SD-LoRA once and keep the features of every moment, so that heads can be compared without training again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import EvaluationPlugin
from numpy.typing import NDArray

from avalanche_sdlora import Checkpoint
from avalanche_sdlora.files import replacing
from avalanche_sdlora.training.features import feature_batches
from experiments.resolve import Resolved
from experiments.results import write_json
from experiments.terminal.progress import Progress
from experiments.whole_run import loop_settings, prepare


class Moments:
    """The features of a run's images, one file for every number of experiences learned.

    Moment 0, before any training, and the last have all images. A moment ``t`` between them has the training images of
    experience ``t`` (counted from one), which was learned last, and of the next, and the test images of the first
    ``t``. Test images come with the labels that the linear head predicts.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("moment*.npz"))
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __call__(self, moment: int, name: str, experience: int) -> NDArray[Any]:
        """``train`` or ``test`` features ``(n, d)``, ``train_labels`` or ``test_labels``, or ``predicted`` labels."""
        if moment not in self._open:
            self._open[moment] = np.load(self.files[moment], allow_pickle=False)
        return self._open[moment][f"{name}{experience}"]


def gather(resolved: Resolved) -> Moments:
    """Train, unless that has been done; a training that was killed continues.

    Args:
        resolved: A run of SD-LoRA with the linear head; its ``output`` gets the files.

    Raises:
        ValueError: An argument cannot be used, or ``output`` belongs to a run with others.
    """
    arguments, config = resolved.arguments, resolved.config
    output = Path(str(arguments.output))
    if arguments.method != "sdlora" or config.head != "linear":
        raise ValueError(
            f"method={arguments.method!r}, sdlora.head={config.head!r}: heads are compared on what SD-LoRA trains; "
            "leave both out"
        )
    about = {**arguments.flat(), **dict.fromkeys(("output", "device", "workers", "baselines"))}
    done = output / "trained.json"
    if done.exists():
        there = json.loads(done.read_text(encoding="utf-8"))
        differing = sorted(name for name in about if there.get(name) != about[name])
        if differing:
            said = ", ".join(f"{name} {there.get(name)!r} there, {about[name]!r} asked" for name in differing)
            raise ValueError(
                f"output={arguments.output!r} holds the features of another run: {said}; name a new folder"
            )
        return Moments(output)
    checkpoint = Checkpoint(output, about)
    backbone, _, benchmark = prepare(arguments)
    progress = Progress([len(e.dataset) for e in benchmark.train_stream], int(arguments.epochs or 1))
    strategy = resolved.method.strategy(
        resolved.method.model(backbone, config),
        arguments,
        **loop_settings(arguments),
        evaluator=EvaluationPlugin(loggers=[progress]),
    )
    if not checkpoint.found:
        _save(output, 0, strategy, benchmark, arguments.workers)
    for experience in checkpoint.resume(strategy, benchmark.train_stream):
        strategy.train(experience, eval_streams=[], num_workers=arguments.workers)
        _save(output, int(strategy.model.experiences), strategy, benchmark, arguments.workers)
    write_json(done, about)
    checkpoint.remove()
    return Moments(output)


def _save(folder: Path, moment: int, strategy: Any, benchmark: Any, workers: int) -> None:
    """Write the file of one moment, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {}
    last = len(benchmark.train_stream)
    for kind, stream in (("train", benchmark.train_stream), ("test", benchmark.test_stream)):
        wanted = range(last)
        if 0 < moment < last:
            wanted = range(moment - 1, moment + 1) if kind == "train" else range(moment)
        for i in wanted:
            arrays[f"{kind}{i}"], arrays[f"{kind}_labels{i}"], predicted = _features(strategy, stream[i], workers)
            if kind == "test":
                arrays[f"predicted{i}"] = predicted
    with replacing(folder / f"moment{moment:03}.npz") as path, open(path, "xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _features(strategy: Any, experience: Any, workers: int) -> tuple[NDArray[Any], ...]:
    """Features, labels and predicted labels; the random numbers of the training stay as they are."""
    model = strategy.model.to(strategy.device).eval()
    batches = feature_batches(
        model.features, experience.dataset, batch_size=128, device=strategy.device, num_workers=workers
    )
    parts = [(x.cpu(), y.cpu(), model.head(x).detach().argmax(1).cpu()) for x, y, _ in batches]
    return tuple(torch.cat(column).numpy() for column in zip(*parts))
