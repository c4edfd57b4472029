"""What somebody meets who runs a command for the first time, a second time, and stops it."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from avalanche_sdlora.backbones import DownloadError
from benchmarks import make_benchmark
from experiments import run as command
from experiments import whole_run
from experiments.arguments import Arguments, dataset_title
from experiments.compare import __main__ as compare
from experiments.compare.grid import Cell
from experiments.interruption import until_stopped
from experiments.options.flags import in_flags
from experiments.outcome import show
from experiments.resolve import resolve
from tests.benchmarks.samples import SMALL, fill
from tests.common import MLP


@pytest.fixture(autouse=True)
def _listens():
    """Ctrl-C reaches the process even if it was started in the background, where shells let it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def call(monkeypatch, main, *words):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    main()


def options(quick):
    given = {name: value for name, value in quick.items() if name != "settings"} | quick["settings"]
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def test_the_same_command_again_says_where_its_results_are(finished, quick, monkeypatch, capsys):
    results, output = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    call(monkeypatch, command.main, "digits", "--output", output, *options(quick))
    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"this run has finished: Acc {results['acc']:.2f}; results.json and all other files are in {output}"
    ]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    with pytest.raises(
        SystemExit, match=r"error: .*is of another run \(seed 0 there, 1 asked\): name another --output"
    ):
        call(monkeypatch, command.main, "digits", "--output", output, "--seed", "1", *options(quick))


class StopAt:
    """Presses Ctrl-C after so many epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def __call__(self, strategy):
        after = type(strategy)._after_training_epoch

        def stop(**kwargs):
            after(strategy, **kwargs)
            self.epochs -= 1
            if self.epochs == 0:
                os.kill(os.getpid(), signal.SIGINT)

        strategy._after_training_epoch = stop


@pytest.mark.slow
@pytest.mark.parametrize(("method", "said"), [("sdlora", "Kept: 1 of 2 experiences and"), ("replay", "cannot be cont")])
def test_ctrl_c_is_one_line_that_says_what_was_kept(method, said, quick, monkeypatch, tmp_path, capsys):
    class Often(whole_run.Checkpoint):
        def __init__(self, *args):
            super().__init__(*args, share=1.0)

    monkeypatch.setattr(whole_run, "Checkpoint", Often)
    stop, whole = StopAt(3), command.run
    monkeypatch.setattr(command, "run", lambda arguments, **how: whole(arguments, experiences=2, watch=stop, **how))
    words = ["digits", "--output", tmp_path / "out", "--method", method, "--baselines", "false", *options(quick)]
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, command.main, *words, "--epochs", 2)
    assert end.value.code == 130
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("stopped. ")
    assert said in lines[-1]
    assert not any("Traceback" in line for line in lines)
    if method == "sdlora":
        assert f"--output {tmp_path / 'out'} continues" in lines[-1]
        assert (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_ctrl_c_in_a_comparison_says_what_was_kept(monkeypatch, tmp_path, capsys):
    stopped = []
    monkeypatch.setattr(Cell, "run", lambda self, *args: (os.kill(os.getpid(), signal.SIGINT), time.sleep(1)))
    monkeypatch.setattr(Cell, "stop", lambda self: stopped.append(self))
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, compare.main, "digits", "--output", tmp_path / "all", "--seeds", 0, 1, "--only", "default")
    assert end.value.code == 130
    assert "stopped. Kept: 0 of 2 cells" in capsys.readouterr().err
    assert len(stopped) == 2


@pytest.mark.parametrize("said", ["", "stopped. Kept: 1 of 2 experiences"])
def test_ctrl_c_in_any_other_command_is_one_line(said, capsys):
    def main():
        raise KeyboardInterrupt(said)

    with pytest.raises(SystemExit) as end:
        until_stopped(main)
    assert end.value.code == 130
    assert capsys.readouterr().err == f"\n{said or 'stopped'}\n"


def test_every_command_ends_so():
    commands = [*Path(command.__file__).parent.rglob("*.py")]
    ends = {path.name: path.read_text(encoding="utf-8") for path in commands}
    ends = {name: text for name, text in ends.items() if '__name__ == "__main__"' in text}
    assert len(ends) > 8
    lacking = [name for name, text in ends.items() if "until_stopped(" not in text and "leave(" not in text]
    assert lacking == ["processes.py"]  # one of several processes, which another command starts


def test_an_output_that_cannot_be_written_is_refused_at_once(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for main, words in ((command.main, []), (compare.main, ["--only", "default"])):
        with pytest.raises(SystemExit, match=r"error: --output .*/file: is a file; expected a folder"):
            call(monkeypatch, main, "digits", "--output", tmp_path / "file", *words)
    with pytest.raises(SystemExit, match=r"would be below the file .*/file;"):
        call(monkeypatch, command.main, "digits", "--output", tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a file system that is mounted to be read only
    with pytest.raises(SystemExit, match=rf"--output .*: {tmp_path} cannot be written to; name another folder"):
        call(monkeypatch, command.main, "digits", "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_everything_local_is_looked_at_before_weights_are_fetched(monkeypatch, tmp_path):
    fetched = []

    def fetch(name, pretrained=True, **kwargs):
        if pretrained:
            fetched.append(name)
            raise DownloadError(name, OSError("no network"))
        return real(name, pretrained=pretrained, **kwargs)

    real = whole_run.create_backbone
    monkeypatch.setattr(whole_run, "create_backbone", fetch)
    monkeypatch.delenv("SDLORA_DATA", raising=False)
    for name in "ab":
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "notes.txt").write_text("no image")
    images = fill(tmp_path / "images", {"cat": 3, "dog": 3})
    output = ["--output", tmp_path / "out"]
    for words, message in (
        ([f"folder:{tmp_path / 'texts'}"], "There are no images in the folders"),
        ([f"folder:{images}", "--tasks", "3"], "--tasks|2 classes"),
        ([f"folder:{images}", "--tasks", "2", "--sdlora.rank", "1000"], "--sdlora.rank 1000: larger than layer"),
        ([f"folder:{images}", "--tasks", "2", "--image_size", "31"], "--image_size 31 is not divisible"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*({message})"):
            call(monkeypatch, command.main, *words, *output)
    assert not fetched
    with pytest.raises(SystemExit, match=r"cannot be fetched \(no network\)\. Without a connection .*--weights FILE"):
        call(monkeypatch, command.main, f"folder:{images}", "--tasks", "2", *output)
    assert len(fetched) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("img_size=31 is not divisible", "--image_size 31 is not divisible"),
        ("name='vit_x': timm knows", "--backbone vit_x: timm knows"),
        ("head='linear' with drift='none'", "--sdlora.head linear with --sdlora.drift none"),
        ("take them with strict=False.", "take them with --strict false."),
        ("weights=... and lr=0.1, 'x=1', ||A||=1", "--weights... and lr=0.1, 'x=1', ||A||=1"),
        ("or let root= or the environment", "or let --data or the environment"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "runs/mine"), "runs/mine: Permission denied"),
    ],
)
def test_messages_name_the_options_of_the_command(message, shown):
    assert in_flags(message) == shown


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("compare.__main__", [], "error: name the data sets to compare on, such as digits"),
        ("compare.__main__", ["digits"], "error: --output: name the folder of the comparison"),
        ("compare.__main__", ["digits", "--output", "new", "--jobs", "0"], "error: --jobs 0: expected at least 1"),
        ("compare.__main__", ["digits", "--seeds", "a"], "error: --seeds a: expected a whole number"),
        ("compare.__main__", ["digits", "--output", "new", "--only", "defalt"], "error: --only defalt: the grid has"),
        ("predict", ["one.png"], "error: --adapters: name the file"),
        ("predict", ["one.png", "--adapters", "none"], "error: none: there is no such file"),
        ("predict", ["one.png", "--adapters", "none", "--top", "x"], "error: --top x: expected a whole number"),
        ("studies.speed", ["--tasks", "one"], "error: --tasks one: expected a whole number"),
        ("studies.long_streams", ["--rank", "x"], "error: --rank x: expected a whole number"),
        ("export", ["nothing", "--output", "new"], "error: nothing: holds no results.json"),
        ("report.__main__", ["nothing"], "error: nothing: there is no results.json"),
    ],
)
def test_each_command_names_what_is_wrong_as_it_was_typed(module, words, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        call(monkeypatch, importlib.import_module(f"experiments.{module}").main, *words)
    assert not any(tmp_path.iterdir())


def test_the_data_set_has_no_path_of_the_machine_in_a_title(tmp_path):
    assert dataset_title(f"folder:{tmp_path}/flowers") == "flowers"
    assert dataset_title("cifar100") == Arguments("cifar100").title == "cifar100"


def test_adamw_and_precision_are_options(monkeypatch):
    found = resolve(Arguments("digits", optimizer="adamw"))
    assert found.arguments.precision in ("float32", "bfloat16")
    for recipe in ("paper", "reference"):
        monkeypatch.setattr("experiments.resolve.multiplies_bfloat16", lambda device: True)
        assert resolve(Arguments("digits")).arguments.precision == "bfloat16"
        assert resolve(Arguments("digits", recipe=recipe)).arguments.precision == "float32"
    strategy = found.method.strategy(
        found.method.model(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)), MLP), found.arguments
    )
    assert isinstance(strategy.optimizer, torch.optim.AdamW)


def test_which_images_these_are_is_said_at_the_start(finished, quick, monkeypatch, tmp_path, capsys):
    del finished
    stop = StopAt(1)
    with pytest.raises(KeyboardInterrupt):
        command.run(Arguments("digits", output=str(tmp_path / "out"), baselines=False, **quick), watch=stop)
    said = capsys.readouterr().out
    assert "images: scikit-learn's handwritten digits: 179 training and 50 test images" in said
    assert "computing in float32 on cpu" in said or "computing in bfloat16 on cpu" in said
    assert Path(tmp_path / "out").is_dir()


def test_results_name_the_classes_and_say_how_each_is_recognised(finished, capsys):
    results, output = finished
    classes = {str(digit) for digit in range(10)}
    assert set(results["class_accuracy"]) == classes
    assert {name for names in results["classes_of_tasks"] for name in names} == classes
    assert results["balanced_acc"] == pytest.approx(sum(results["class_accuracy"].values()) / 10)
    assert 0 <= results["calibration_error"] <= 1
    assert all(0 < found["balanced_acc"] <= 100 for found in results["baselines"].values())
    assert results["caption"] == "scikit-learn's handwritten digits: 179 training and 50 test images"
    assert (output / "figures" / "reliability.svg").stat().st_size > 1000
    show(results)
    said = capsys.readouterr().out
    first = ", ".join(results["classes_of_tasks"][0])
    for told in (f"task 1: {first}", "images: scikit-learn's handwritten digits", "balanced", "ECE"):
        assert told in said


def test_no_table_and_no_title_has_a_path_of_the_machine(tmp_path):
    images = fill(tmp_path / "flowers", {"rose": 5, "lily": 5})
    benchmark = make_benchmark(f"folder:{images}", inputs=SMALL, n_experiences=2)
    assert benchmark.caption == "images in flowers: 8 training and 2 test images"
    assert str(tmp_path) in benchmark.source
