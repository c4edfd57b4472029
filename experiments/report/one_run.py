"""What the page says of one run, for somebody who has never seen the method."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.figures.mistakes import class_names, task_of_class
from experiments.figures.style import Results, data_name
from experiments.terminal.progress import duration

#: What the numbers mean: the key of a number, its name, its unit, its digits and what it says.
NUMBERS = (
    ("acc", "Acc", "%", 1, "right answers at the end, as a mean over the tasks"),
    ("aaa", "AAA", "%", 1, "the mean of Acc over all moments of the stream"),
    ("pooled_acc", "pooled Acc", "%", 1, "right answers at the end, every test image counting alike"),
    ("forgetting", "forgetting", "points", 1, "what a task lost on average between its best moment and the end"),
    ("bwt", "BWT", "points", 1, "change of a task's accuracy between when it was new and the end"),
)

#: What the largest memory is that of.
PEAKS = {
    "process": "resident memory of the process, at its largest",
    "cuda": "memory allocated on the GPU, at its largest",
    "either": "of the GPU, or of the process on a CPU, at its largest",
}

#: In place of a number for which the accuracy was not measured after every task.
NOT_MEASURED = "not measured"


def overview(results: Results) -> dict[str, Any]:
    """Title, the story in a few sentences, and the numbers that matter."""
    return {
        "title": f"{results['method']} on {data_name(results)}",
        "lead": _story(results),
        "cards": _cards(results),
    }


def _story(results: Results) -> list[str]:
    arguments, acc = results["arguments"], results["acc"]
    tasks = len(results["accuracy_matrix"])
    classes = len(class_names(results)) or len(results.get("class_order") or [])
    told = [
        f"A pre-trained network ({arguments['backbone']}) learned {classes} classes in {tasks} tasks, one task after "
        f"another. At the end it must tell all classes apart without being told the task, and is right for "
        f"{acc:.1f} % of the test images (mean over the tasks)."
    ]
    if results["baselines"]:
        name, best = max(results["baselines"].items(), key=lambda item: item[1]["acc"])
        told.append(
            f"The yardstick is what needs no training at all: {name.replace('_', ' ')} on the features of the "
            f"frozen network is right for {best['acc']:.1f} %; {_verdict(acc - best['acc'], results)}"
        )
    back = [str(task) for task in taken_back(results.get("decisions") or [])]
    if back:
        named = f"task{'s' if len(back) > 1 else ''} {', '.join(back)}"
        told.append(
            f"Images that it had not been trained on judged each task: what {named} had changed in the network did not "
            "help, and was taken back. The head has learned all classes."
        )
    known = (results.get("observed", {}).get("task_known") or [None])[-1]
    if known:
        mean = sum(known) / len(known)
        told.append(
            f"Told which task an image belongs to, it would be right for {mean:.1f} %. The {mean - acc:.1f} points in "
            "between are lost in the comparison of tasks with each other, not within a task."
        )
    if results.get("forgetting") is not None and tasks > 1:
        told.append(f"Between its best moment and the end, a task lost {results['forgetting']:.1f} points on average.")
    return told


def _verdict(apart: float, results: Results) -> str:
    """What a difference to the yardstick means, given how many test images there are."""
    share = min(max(results["pooled_acc"] / 100, 0.01), 0.99)
    error = 100 * math.sqrt(2 * share * (1 - share) / sum(results["test_samples"]))
    if abs(apart) < error:
        return f"this run is level with it (a difference of {apart:+.1f} is less than so few test images can show)."
    if apart > 0:
        return f"this run gained {apart:.1f} points over it."
    return f"this run fell {-apart:.1f} points behind it: it would have been better off without training."


def _cards(results: Results) -> list[dict[str, str]]:
    observed, seconds = results.get("observed", {}), results.get("seconds", {})
    cards = [
        _card(name, f"{results[key]:.{digits}f}", unit, about)
        if results.get(key) is not None
        else _card(name, NOT_MEASURED, "", about)
        for key, name, unit, digits, about in NUMBERS
    ]
    known = (observed.get("task_known") or [None])[-1]
    if known:
        value = f"{sum(known) / len(known):.1f}"
        cards.append(_card("task known", value, "%", "right answers where only the task's own classes compete"))
    if observed.get("calibration_error"):
        value = f"{observed['calibration_error'][-1]:.3f}"
        about = "expected calibration error at the end: 0 where probabilities can be believed"
        cards.append(_card("calibration error", value, "0 to 1", about))
    kept = results["parameters"][-1]["kept"] if results.get("parameters") else None
    if kept is not None:
        cards.append(_card("parameters kept", f"{kept:,}", "", "all that was learned, beyond the frozen network"))
    rates = observed.get("images_per_second")
    if rates:
        value = f"{sum(rates) / len(rates):,.0f}"
        cards.append(_card("training speed", value, "images/s", "mean over the tasks, on this machine"))
    for kind, peak in _peaks(observed.get("peak_memory_mb")).items():
        cards.append(_card("peak memory", f"{peak:,}", "MB", PEAKS[kind]))
    if seconds.get("total"):
        cards.append(_card("time", duration(seconds["total"]), "", "of the whole run"))
    return cards


def _peaks(found: Any) -> dict[str, int]:
    """The largest memory by its kind; version 0.1 had one number, of the device where there was one."""
    return found if isinstance(found, dict) else {"either": found} if found else {}


def _card(name: str, value: str, unit: str, about: str) -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit, "about": about}


def details(folder: Path, results: Results) -> dict[str, Any]:
    """Tables and pictures of one run."""
    return {
        "decisions": decisions(results.get("decisions") or []),
        "classes": classes(results),
        "most_wrong": _most_wrong(folder, results),
        "settings": sorted(settings(results).items()),
        "seconds": sorted(_rounded(results.get("observed", {}).get("seconds_by_phase") or {}).items()),
        "environment": _environment(results),
        "command": command(results),
    }


def taken_back(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """The tasks, from 1, whose changes of the network were taken back; the first one at the beginning of the second."""
    first = any(record.get("first_kept") is False for record in records)
    return [i + 1 for i, record in enumerate(records) if record.get("kept") is False or (first and i == 0)]


def decisions(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A table of whatever a run decided at each experience; None if it decided nothing.

    Args:
        records: One for each experience; a column for each key that any of them has.
    """
    columns = list(dict.fromkeys(key for record in records for key in record))
    if not columns:
        return None
    rows = [[i + 1, *(_plain(record.get(column)) for column in columns)] for i, record in enumerate(records)]
    return {"columns": ["task", *(column.replace("_", " ") for column in columns)], "rows": rows}


def classes(results: Results) -> dict[str, Any] | None:
    """A table of the classes: how often each is recognised at the end, and what it is taken for instead."""
    whole: Counter[int] = Counter()
    right: Counter[int] = Counter()
    wrong: dict[int, Counter[int]] = {}
    for _, true, predicted, count in results.get("observed", {}).get("confusion", []):
        whole[true] += count
        if true == predicted:
            right[true] += count
        else:
            wrong.setdefault(true, Counter())[predicted] += count
    if not whole:
        return None
    names, tasks = class_names(results), task_of_class(results)
    rows = []
    for label in sorted(whole, key=lambda label: (tasks.get(label, 0), label)):
        taken = wrong.get(label, Counter()).most_common(1)
        other = f"{names[taken[0][0]]} ({taken[0][1]})" if taken else ""
        share = round(100 * right[label] / whole[label], 1)
        rows.append([names[label], tasks.get(label, ""), whole[label], share, other])
    return {"columns": ["class", "task", "test images", "right (%)", "most often taken for"], "rows": rows}


def settings(results: Results) -> dict[str, str]:
    """Every setting of a run, by the name that it has on the command line, as text."""
    both = {**results["config"], **results["arguments"]}
    repeated = {name.partition(".")[2] for name in results["arguments"] if name.startswith("sdlora.")}
    named = {
        f"sdlora.{name}" if name in results["config"] and "." not in name else name: value
        for name, value in both.items()
        if name not in repeated or name in results["arguments"]
    }
    return {name: _plain(value) for name, value in named.items() if value is not None}


def command(results: Results) -> str:
    """The command that makes the run again."""
    options = dict(results["arguments"])
    words = ["python", "-m", "experiments.run", str(options.pop("dataset"))]
    for name, value in options.items():
        if value is not None and name not in ("output", "weights", "data", "keep_features"):
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)


def _most_wrong(folder: Path, results: Results) -> list[dict[str, Any]]:
    """The images that were taken for another class with most confidence, as far as their files are there."""
    names, pictures = class_names(results), []
    for record in results.get("observed", {}).get("most_wrong") or []:
        file = folder / "figures" / record["file"]
        if file.is_file():
            data = base64.b64encode(file.read_bytes()).decode("ascii")
            pictures.append(
                {
                    "data": f"data:image/png;base64,{data}",
                    "true": names.get(record["true"], record["true"]),
                    "predicted": names.get(record["predicted"], record["predicted"]),
                    "confidence": f"{100 * record['confidence']:.0f} %",
                    "task": record["task"],
                }
            )
    return pictures


def _environment(results: Results) -> list[tuple[str, str]]:
    environment = results["environment"]
    told = {name: value for name, value in environment.items() if name != "versions"} | environment["versions"]
    return [(name, str(value)) for name, value in told.items() if value is not None]


def _rounded(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in values.items()}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(own)}" for name, own in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
