"""The cost of the adapted layer: ``python -m experiments.speed``.

One training step (forward, backward and optimizer) and one forward pass, for

* the bound: the frozen backbone's forward pass and input gradient, and a head that trains;
* one PEFT LoRA of rank 10 on the adapted layers;
* one branch per task, as published implementations compute it (plain, written for this comparison);
* this library,

at several numbers of tasks. Everything runs in one process and in turns; figures are medians.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from avalanche_sdlora import SDLoRAConfig, SDLoRAModel
from avalanche_sdlora.training.precision import Precision, autocast_dtype
from experiments.interruption import until_stopped
from experiments.options.commandline import CommandLine
from experiments.options.run_options import options_of
from experiments.results import environment, write_json
from experiments.studies.peak_memory import PeakMemory
from experiments.studies.processes import measure_processes
from experiments.studies.rivals import CLASSES, bound, branches, peft_lora


@dataclass(frozen=True)
class Arguments:
    """The measurement.

    Args:
        model: A timm model name; its weights are random, since time does not depend on them.
        image_size: Side of the images in pixels.
        batch_size: Images in a step.
        precision: Precision of the forward pass; auto takes bfloat16 where the device multiplies it natively.
        device: cpu or cuda.
        tasks: Numbers of tasks for this library.
        branch_tasks: Numbers of tasks for the branch formulation.
        rank: Rank of each task.
        magnitudes: "shared" or "per_projection".
        repeats: Rounds of measurement; each times every row once.
        processes: More than 1: the step of so many processes with a thread each beside one process with as many
            threads, and nothing else.
        output: JSON file that gets every figure.
    """

    model: str = "vit_small_patch8_224"
    image_size: int = 64
    batch_size: int = 32
    precision: Precision = "float32"
    device: str = "cpu"
    tasks: list[int] = dataclasses.field(default_factory=lambda: [1, 5, 10, 20, 40, 100])
    branch_tasks: list[int] = dataclasses.field(default_factory=lambda: [1, 10, 20])
    rank: int = 10
    magnitudes: str = "per_projection"
    repeats: int = 9
    processes: int = 1
    output: str | None = None


def sdlora(backbone: nn.Module, tasks: int, arguments: Arguments) -> SDLoRAModel:
    """This library at its ``tasks``-th task."""
    config = SDLoRAConfig(rank=arguments.rank, magnitudes=arguments.magnitudes)  # type: ignore[arg-type]
    model = SDLoRAModel(backbone, config)
    for k in range(tasks):
        model.begin_experience({0: range(CLASSES)} if k == 0 else {0: [k % CLASSES]})
        for p in model.trainable_groups()["directions"]:
            torch.nn.init.normal_(p, std=0.01)
    return model


class Row:
    """One model with its optimizer, ready to be timed."""

    def __init__(self, name: str, model: nn.Module, x: Tensor, y: Tensor, arguments: Arguments) -> None:
        self.name, self.x, self.y = name, x, y
        self.model = model.to(arguments.device).train()
        self.trainable = [p for p in model.parameters() if p.requires_grad and p.numel()]
        self.optimizer = torch.optim.SGD(self.trainable, lr=1e-4, momentum=0.9, foreach=True)
        dtype = autocast_dtype(arguments.precision, arguments.device)
        self.autocast = torch.autocast(arguments.device, torch.bfloat16, enabled=dtype is not None)
        self.steps: list[float] = []
        self.forwards: list[float] = []

    def step(self) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.model(self.x)
        F.cross_entropy(logits.float(), self.y).backward()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self) -> None:
        """One forward pass without gradient."""
        with self.autocast:
            self.model(self.x)

    def time(self) -> None:
        """Time one step and one forward pass; the latter is warmed up, since evaluation merges once, not per batch."""
        self.model.train()
        self.steps.append(_seconds(self.step, self.x.device))
        self.model.eval()
        self.forward()
        self.forwards.append(_seconds(self.forward, self.x.device))


def peak_memory(row: Row) -> int:
    """Peak bytes of one step beyond those of the model itself."""
    row.model.train()
    row.step()
    if row.x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        row.step()
        return torch.cuda.max_memory_allocated() - held
    with PeakMemory() as memory:
        row.step()
    return memory.peak


def measure(arguments: Arguments) -> dict[str, Any]:
    """Every row, timed in turns.

    Returns:
        ``rows``: for each, median milliseconds of a step and of a forward pass, their ratios to the bound's, peak
        megabytes of a step; and the machine that it was measured on.
    """
    torch.manual_seed(0)
    size = arguments.image_size
    x = torch.randn(arguments.batch_size, 3, size, size, device=arguments.device)
    y = torch.randint(CLASSES, (arguments.batch_size,), device=arguments.device)

    def backbone() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(arguments.model, img_size=size, num_classes=0).requires_grad_(False)

    makers: dict[str, Callable[[], nn.Module]] = {"bound: frozen backbone, head": lambda: bound(backbone())}
    if importlib.util.find_spec("peft"):  # the extra "speed"
        makers["one PEFT LoRA on qkv"] = lambda: peft_lora(backbone(), arguments.rank)
    for t in arguments.branch_tasks:
        makers[f"branches, {t} tasks"] = lambda t=t: branches(backbone(), t, arguments.rank)  # type: ignore[misc]
    for t in arguments.tasks:
        makers[f"this library, {t} tasks"] = lambda t=t: sdlora(backbone(), t, arguments)  # type: ignore[misc]
    rows = [Row(name, make(), x, y, arguments) for name, make in makers.items()]
    memory = [peak_memory(row) for row in rows]
    for _ in range(arguments.repeats):
        for row in rows:
            row.time()
    reference = rows[0]

    def ratio(times: list[float], others: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(times, others))  # pairs of one round, so that drift cancels

    return {
        "rows": [
            {
                "name": row.name,
                "step_ms": 1e3 * statistics.median(row.steps),
                "step_ratio": ratio(row.steps, reference.steps),
                "forward_ms": 1e3 * statistics.median(row.forwards),
                "forward_ratio": ratio(row.forwards, reference.forwards),
                "peak_mb": peak / 1e6,
                "images_per_second": arguments.batch_size / statistics.median(row.steps),
            }
            for row, peak in zip(rows, memory)
        ],
        "arguments": dataclasses.asdict(arguments),
        "environment": environment(),
    }


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """The command line."""
    command = CommandLine(
        "python -m experiments.speed", "Measure what the adapted layer costs.", options_of(Arguments, "Options")
    )
    try:
        arguments = Arguments(**command.parse())
    except ValueError as error:
        sys.exit(f"error: {error}")
    if arguments.processes > 1:
        found = {**measure_processes(arguments), "environment": environment()}
        print(
            f"{arguments.model}, {arguments.image_size} px, batch {arguments.batch_size}: a step of one process "
            f"with {arguments.processes} threads takes {found['one_ms']:.1f} ms, of {arguments.processes} processes "
            f"with one thread each {found['several_ms']:.1f} ms, ratio {found['ratio']:.2f} (rounds: "
            f"{', '.join(f'{ratio:.2f}' for ratio in found['ratios'])}). A process hands {found['bytes']:,} bytes to "
            f"sums in a step, and sends {found['bytes_sent_around_a_ring']:,.0f} around a ring"
        )
        if arguments.output:
            write_json(arguments.output, found)
        return
    results = measure(arguments)
    table = Table(
        title=f"{arguments.model}, {arguments.image_size} px, batch {arguments.batch_size}, "
        f"{arguments.precision}, {arguments.device}, rank {arguments.rank}"
    )
    for column in ("", "step ms", "to bound", "forward ms", "to plain", "peak MB"):
        table.add_column(column, justify="right" if column else "left")
    for row in results["rows"]:
        keys = {"step_ms": 1, "step_ratio": 3, "forward_ms": 1, "forward_ratio": 3, "peak_mb": 0}
        table.add_row(row["name"], *(f"{row[key]:.{digits}f}" for key, digits in keys.items()))
    Console().print(table)
    if arguments.output:
        write_json(arguments.output, results)


if __name__ == "__main__":
    until_stopped(main)
