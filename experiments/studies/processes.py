"""The step of several processes beside that of one: ``python -m experiments.speed --processes 2``.

Both train one batch of the same size. The processes have a thread each, the one process as many threads as there are
processes. Rounds alternate between the two, so that a machine which is busier for a while burdens both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.distributed as dist
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from torch.utils.data import TensorDataset

from avalanche_sdlora import SDLoRAConfig, SDLoRAStrategy, processes

if TYPE_CHECKING:
    from experiments.studies.speed import Arguments

CLASSES = 10
STEPS = 8


def step_bytes(parameters: int, tensors: int) -> int:
    """What a process hands to ``torch.distributed`` in a training step without metrics, in float32.

    The three float64 numbers of the loss; then the gradients, one number for each tensor, and the loss.

    Args:
        parameters: Elements that train.
        tensors: Tensors that they lie in.
    """
    return 8 * 3 + 4 * (parameters + tensors + 1)


def ring_bytes(payload: int, size: int) -> float:
    """What each of ``size`` processes sends in a sum of ``payload`` bytes around a ring (Patarasuk and Yuan, 2009)."""
    return 2 * (size - 1) / size * payload


class Traffic:
    """Counts the bytes of the tensors that this process hands to sums, while it is open."""

    def __enter__(self) -> Traffic:
        self.bytes, self._sum = 0, dist.all_reduce

        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.bytes += tensor.numel() * tensor.element_size()
            return self._sum(tensor, *args, **kwargs)

        dist.all_reduce = counted
        return self

    def __exit__(self, *error: object) -> None:
        dist.all_reduce = self._sum


class Watch(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """The time and the traffic of every step, from the loaded batch to the moved parameters."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic
        self.seconds: list[float] = []
        self.bytes: list[int] = []

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """A step begins."""
        self._begun, self._sent = time.perf_counter(), self.traffic.bytes

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """A step has ended."""
        self.seconds.append(time.perf_counter() - self._begun)
        self.bytes.append(self.traffic.bytes - self._sent)


def train(model: str, image_size: int, batch_size: int, rank: int) -> dict[str, Any]:
    """Train some steps in this process and those beside it.

    Returns:
        ``seconds`` of a step, the median; ``bytes`` that it hands to sums; ``parameters`` and ``tensors`` that train.
    """
    torch.manual_seed(0)
    images = torch.randn(STEPS * batch_size, 3, image_size, image_size)
    labels = torch.arange(len(images)) % CLASSES
    data: Any = TensorDataset(images, labels)
    data.targets = labels.tolist()
    stream = benchmark_from_datasets(train=[as_classification_dataset(data)]).train_stream
    with Traffic() as traffic:
        watch = Watch(traffic)
        backbone = timm.create_model(model, img_size=image_size, num_classes=0)
        settings: dict[str, Any] = {"train_mb_size": batch_size, "evaluator": None, "plugins": [watch]}
        strategy = SDLoRAStrategy(model=backbone, config=SDLoRAConfig(rank=rank), **settings)
        strategy.train(stream[0], eval_streams=[])
    held = [p for group in strategy.optimizer.param_groups for p in group["params"]]
    return {
        "seconds": statistics.median(watch.seconds[2:]),
        "bytes": watch.bytes[-1],
        "parameters": sum(p.numel() for p in held),
        "tensors": len(held),
    }


def measure_processes(arguments: Arguments) -> dict[str, Any]:
    """The step of ``arguments.processes`` processes and that of one, and the ratio of their times.

    Raises:
        RuntimeError: A process failed; with the end of what it printed.
    """
    rounds = [(_run(arguments, 1), _run(arguments, arguments.processes)) for _ in range(arguments.repeats)]
    ratios = [together["seconds"] / alone["seconds"] for alone, together in rounds]
    _, last = rounds[-1]
    payload = step_bytes(last["parameters"], last["tensors"])
    return {
        "processes": arguments.processes,
        "one_ms": 1e3 * statistics.median(alone["seconds"] for alone, _ in rounds),
        "several_ms": 1e3 * statistics.median(together["seconds"] for _, together in rounds),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "bytes": last["bytes"],
        "bytes_by_formula": payload,
        "bytes_sent_around_a_ring": ring_bytes(payload, arguments.processes),
        "parameters": last["parameters"],
    }


def _run(arguments: Arguments, size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.json")
        launch = ["torch.distributed.run", "--standalone", f"--nproc_per_node={size}", "-m"] if size > 1 else []
        settings = [arguments.model, arguments.image_size, arguments.batch_size, arguments.rank, path]
        command = [sys.executable, "-W", "ignore", "-m", *launch, __name__, *map(str, settings)]
        threads = {"OMP_NUM_THREADS": str(arguments.processes if size == 1 else 1), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{size} processes failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def _main(model: str, image_size: str, batch_size: str, rank: str, path: str) -> None:
    processes.start()
    found = train(model, int(image_size), int(batch_size), int(rank))
    if processes.is_first():
        Path(path).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
