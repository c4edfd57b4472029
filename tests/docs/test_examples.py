"""The examples run as they are, on less data."""

import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import avalanche_sdlora
from avalanche_sdlora import Checkpoint, SDLoRAConfig, SDLoRAStrategy, load_model, read_adapters
from tests.few_digits import use_few

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs an example with these words behind it, on every eighth of the digits, and gives its globals."""
    use_few(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    yield run
    sys.modules.pop("replay_and_early_stopping", None)


def test_examples_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) == 3
    assert max(lengths.values()) <= 60, lengths


@pytest.mark.slow
def test_own_images(run, tmp_path, capsys, monkeypatch):
    small = partial(SDLoRAStrategy, config=SDLoRAConfig(expansion=50))  # solving 2000 units takes most of the time
    monkeypatch.setattr(avalanche_sdlora, "SDLoRAStrategy", small)
    colours = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (99, 99, 99)}
    for part, count in (("train", 6), ("test", 2)):
        for name, colour in colours.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 30), tuple(c + i for c in colour)).save(tmp_path / part / name / f"{i}.png")
    micro = ("--backbone", "vit_micro_patch4_32.formula", "--tasks", 2, "--epochs", 1)
    run("own_images.py", tmp_path, *micro)
    assert sorted(read_adapters("adapters.safetensors").class_names) == sorted(colours)
    assert "AAA" in capsys.readouterr().out
    (tmp_path / "test" / "grey").rename(tmp_path / "test" / "gray")
    with pytest.raises(SystemExit):
        run("own_images.py", tmp_path, *micro)
    assert "folders of equal names" in capsys.readouterr().err


@pytest.mark.slow
def test_replay_and_early_stopping(run, capsys):
    run("replay_and_early_stopping.py")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("after task")]
    assert len(lines) == 5
    assert float(lines[-1].split(":")[1].split()[0]) > 40  # chance is 10


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(run, tmp_path, capsys, monkeypatch):
    class Killed(Exception):  # noqa: N818 - it is no error of the example
        pass

    def killed(self, strategy, stream, resume=Checkpoint.resume):
        for i, experience in enumerate(resume(self, strategy, stream)):
            if i == 2:
                raise Killed
            yield experience

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "resume", killed)
        patch.setattr(Checkpoint, "_save_in_time", Checkpoint._save)
        with pytest.raises(Killed):
            run("resumed_and_distributed.py", tmp_path)
    assert capsys.readouterr().out.count("after task") == 2
    run("resumed_and_distributed.py", tmp_path)
    assert capsys.readouterr().out.count("after task") == 3
    assert load_model(tmp_path / "adapters.safetensors").head.classes() == list(range(10))
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.few_digits", EXAMPLES / "resumed_and_distributed.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("after task") == 5
    assert (tmp_path / "adapters.safetensors").exists()
