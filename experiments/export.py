"""Put finished runs where they can be published: ``python -m experiments.export RUN... --output results``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from avalanche_sdlora.files import replacing
from experiments.arguments import dataset_title
from experiments.interruption import until_stopped
from experiments.options.commandline import CommandLine, Option
from experiments.options.config_file import config_text, read_config
from experiments.options.flags import in_flags

LARGEST = 5_000_000  # bytes of all that is published together

_WHERE = ("output", "keep_features", "data", "weights", "split", "class_order")

COMMAND = CommandLine(
    "python -m experiments.export",
    "Copy results.json and config.toml of finished runs, and their TensorBoard scalars as CSV.",
    [
        Option("run", str, "Folders of runs.", positional=True, nargs="+"),
        Option("output", str, "The folder to publish; a folder in it gets the name of each run."),
    ],
)


def export(runs: Sequence[str], output: str) -> list[Path]:
    """Copy what was measured in finished runs, without a path of this machine.

    Args:
        runs: Folders of runs.
        output: Gets a folder for each, with ``results.json``, ``config.toml`` and ``scalars.csv``.

    Returns:
        The folders.

    Raises:
        ValueError: A folder holds no finished run, two have one name, or all together are larger than 5 MB.
    """
    names = [Path(run).resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if not Path(run, "results.json").is_file():
            raise ValueError(f"{run}: holds no results.json; expected the folder of a finished run")
        if names.count(name) > 1:
            raise ValueError(f"{run}: another run is called {name!r}, too; rename one of the folders")
    contents = {
        Path(output, name, file): content
        for run, name in zip(runs, names, strict=True)
        for file, content in _published(Path(run)).items()
    }
    beside = [path for path in Path(output).rglob("*") if path.is_file() and path not in contents]
    size = sum(path.stat().st_size for path in beside) + sum(len(text.encode()) for text in contents.values())
    if size > LARGEST:
        raise ValueError(
            f"output={output!r}: would hold {size / 1e6:.1f} MB; expected at most {LARGEST / 1e6:.0f} MB: publish fewer"
        )
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Path(temporary).write_text(content, encoding="utf-8")
    return [Path(output, name) for name in names]


def _published(run: Path) -> dict[str, str]:
    """The files to publish of a run, by their names."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for key in _WHERE:  # of a file its name, not where it is
        if results["arguments"].get(key):
            results["arguments"][key] = Path(results["arguments"][key]).name
    dataset = results["arguments"]["dataset"]
    results["arguments"]["dataset"] = _without_path(dataset)
    results["images"] = results["images"].replace(dataset.partition(":")[2] or dataset, dataset_title(dataset))
    files = {"results.json": json.dumps(results, ensure_ascii=False) + "\n"}
    if (run / "config.toml").is_file():
        values = read_config(str(run / "config.toml"))
        values["dataset"] = _without_path(values["dataset"])
        files["config.toml"] = config_text({name: v for name, v in values.items() if name not in _WHERE})
    scalars = io.StringIO(newline="")
    writer = csv.writer(scalars, lineterminator="\n")
    writer.writerow(["tag", "step", "value"])
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for tag in sorted(events.Tags()["scalars"]):
        writer.writerows([tag, event.step, f"{event.value:.6g}"] for event in events.Scalars(tag))
    return files | {"scalars.csv": scalars.getvalue()}


def _without_path(dataset: str) -> str:
    """The name of a data set; of ``folder:PATH`` with the name of the folder in place of where it is."""
    kind, colon, _ = dataset.partition(":")
    return f"{kind}:{dataset_title(dataset)}" if colon else dataset


def main() -> None:
    """The command line."""
    try:
        given = COMMAND.parse()
        if "output" not in given:
            raise ValueError("--output: name the folder to publish")
        for folder in export(given["run"], given["output"]):
            print(folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")


if __name__ == "__main__":
    until_stopped(main)
