"""What a run leaves at its end: its results, the tables on the terminal, figures and a report."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_sdlora.metrics import AccuracyMatrix
from avalanche_sdlora.metrics.stream import NAMES
from benchmarks import InputSpec
from experiments.figures.pictures import picture, specifications, write_svg
from experiments.recipes import published, recipe_of
from experiments.report.page import write_report
from experiments.resolve import Resolved
from experiments.results import environment
from experiments.terminal.tables import print_report

logger = logging.getLogger("experiments")


def opening(resolved: Resolved, source: str, train: Sequence[Any], test: Sequence[Any]) -> str:
    """The lines with which a run begins."""
    arguments, output = resolved.arguments, resolved.arguments.output
    classes = len(set().union(*(e.classes_in_this_experience for e in train)))
    images = [sum(len(e.dataset) for e in stream) for stream in (train, test)]
    lines = [
        f"{resolved.method.label} on {arguments.title}: {classes} classes in {len(train)} tasks, "
        f"{images[0]:,} training and {images[1]:,} test images",
        f"images: {source}",
        f"network: {arguments.backbone}, computing in {arguments.precision} on {arguments.device}",
        f"writing to {output}",
    ]
    if resolved.method.resumable:
        lines.append(f"(should it be interrupted, the same command with --output {output} continues)")
    return "\n".join(lines)


def results_of(
    resolved: Resolved,
    benchmark: Any,
    inputs: InputSpec,
    strategy: Any,
    notes: Mapping[str, Any],
    observed: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of ``results.json``.

    Args:
        resolved: The run.
        benchmark: Its benchmark.
        inputs: How images were prepared.
        strategy: At the end of the stream.
        notes: What the run has gathered: ``rows``, ``baselines``, ``reports`` and ``seconds``.
        observed: What figures are drawn from.
    """
    arguments, reports = resolved.arguments, notes["reports"]
    samples, last = [len(e.dataset) for e in benchmark.test_stream], reports[-1]["observed"]
    matrix = AccuracyMatrix.from_rows(notes["rows"], samples, last["balanced_acc"])
    names = benchmark.class_names
    baselines = {name: AccuracyMatrix.from_rows(*found) for name, found in notes["baselines"].items()}
    same_backbone = arguments.backbone == recipe_of(arguments.dataset, "paper")["backbone"]
    return {
        "accuracy_matrix": matrix.rows(),
        "test_samples": matrix.samples.tolist(),
        **matrix.summary(),
        "not_measured": [name for name in NAMES if name not in matrix.summary()],
        "baselines": {name: {"accuracy_matrix": found.rows(), **found.summary()} for name, found in baselines.items()},
        "class_accuracy": {names[int(label)]: accuracy for label, accuracy in last["class_accuracy"].items()},
        "calibration_error": last["calibration_error"],
        "published": published(arguments.dataset, len(matrix)) if same_backbone else {},
        **{name: [report[name] for report in reports] for name in reports[0] if name != "observed"},
        "observed": dict(observed),
        "trainable_parameters": sum(p.numel() for group in strategy.optimizer.param_groups for p in group["params"]),
        "seed": arguments.seed,
        "class_order": benchmark.class_order,
        "class_names": list(names),
        "classes_of_tasks": [[names[c] for c in sorted(e.classes_in_this_experience)] for e in benchmark.test_stream],
        "images": benchmark.source,
        "caption": benchmark.caption,
        "images_digest": benchmark.digest,
        "images_skipped": list(benchmark.skipped),
        "inputs": dataclasses.asdict(inputs),
        "method": resolved.method.label,
        "config": resolved.described(),
        "arguments": arguments.flat(),
        "environment": environment(),
        "seconds": notes["seconds"],
    }


def show(results: dict[str, Any]) -> None:
    """Print the tables of a run."""
    samples = results["test_samples"]
    matrix = AccuracyMatrix.from_rows(results["accuracy_matrix"], samples, results["balanced_acc"])
    frozen = {
        f"{name.replace('_', ' ')}, frozen": AccuracyMatrix.from_rows(
            found["accuracy_matrix"], samples, found.get("balanced_acc")
        )
        for name, found in results["baselines"].items()
    }
    others = {f"published: {name}": summary for name, summary in results["published"].items()}
    print_report(
        results["method"],
        matrix,
        frozen | others,
        parameters=results["parameters"][-1],
        more={"calibration_error": 100 * results["calibration_error"]},
        images=results["caption"],
        classes=results["classes_of_tasks"][: len(matrix)],
    )


def leave_figures(output: Path, results: dict[str, Any], writer: Any) -> None:
    """Draw the figures of a run as SVG and for TensorBoard, make its report, and say where it is.

    A failure here does not take the results of the run away.

    Args:
        output: The folder of the run.
        results: The contents of its ``results.json``; the seconds that figures took are added.
        writer: Of TensorBoard's events.
    """
    begun = time.perf_counter()
    if results["arguments"]["figures"] != "none":
        try:
            specs = specifications(results)
            for name, spec in specs.items():
                svg = write_svg(output / "figures" / f"{name}.svg", spec)
                writer.add_image(f"Figure/{name}", np.asarray(picture(svg)), dataformats="HWC")
            write_report(output / "report.html", [(output, results)], specs=specs)
            print(f"report: {output / 'report.html'}")
        except Exception as error:
            logger.exception("no report")
            print(f"the report could not be made ({error}); python -m experiments.report {output} tries it again")
        spent = time.perf_counter() - begun
        for name in ("figures", "total"):
            results["seconds"][name] = results["seconds"].get(name, 0.0) + spent
    writer.flush()
