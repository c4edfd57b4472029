"""A run of the command line that is killed with SIGKILL again and again."""

import json
import os
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.arguments import Arguments
from experiments.run import run
from tests.killing import SETTINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "tests.killing", str(folder), "0", "5"]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    assert int(done.stdout) >= 3
    return folder


def figures(folder):
    results = json.loads((folder / "results.json").read_text())
    del results["seconds"], results["arguments"]["output"]
    return results


def test_every_figure_is_that_of_the_uninterrupted_run(folder):
    assert figures(folder / "killed") == figures(folder / "whole")
    adapters = [(folder / name / "adapters.safetensors").read_bytes() for name in ("killed", "whole")]
    assert adapters[0] == adapters[1]


def test_tensorboard_has_every_event_once(folder):
    def events(name):
        found = EventAccumulator(str(folder / name / "tensorboard"), purge_orphaned_data=False).Reload()
        return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}

    assert events("killed") == events("whole")


def test_nothing_unfinished_is_left(folder):
    left = sorted(os.listdir(folder / "killed"))
    assert left == ["accuracy_matrix.png", "adapters.safetensors", "results.json", "tensorboard"]


def test_other_arguments_and_finished_runs_are_refused(folder, tmp_path):
    class StopError(Exception):
        pass

    def stop(*args):
        raise StopError

    with pytest.raises(ValueError, match="holds the results of another run"):
        run(Arguments("digits", output=str(folder / "killed"), **SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.run._accuracies", stop)
        with pytest.raises(StopError):
            run(Arguments("digits", output=str(tmp_path), **SETTINGS, baselines=False))
    for changed in ({"seed": 4}, {"learning_rate": 0.5}, {"workers": 1}):
        (name,) = changed
        with pytest.raises(ValueError, match=f"belongs to another run: {name} was"):
            run(Arguments("digits", output=str(tmp_path), **{**SETTINGS, "baselines": False, **changed}))
