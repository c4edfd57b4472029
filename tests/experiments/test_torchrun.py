"""A run of the command line that torchrun starts has the table of one process, whoever is lost meanwhile."""

import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SETTINGS = ["--epochs", "1", "--batch_size", "128", "--image_size", "16", "--device", "cpu", "--sdlora.expansion", "50"]


def run_digits(folder, *launcher):
    command = [sys.executable, "-m", *launcher, "experiments.run", "digits", *SETTINGS, "--output", str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "results.json").read_text()), done.stdout


def test_two_processes_give_the_table_of_one_and_the_first_alone_speaks(tmp_path):
    one, _ = run_digits(tmp_path / "one")
    two, printed = run_digits(tmp_path / "two", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
    assert two["environment"]["processes"] == 2
    for found, other in ((one, two), *zip(one["baselines"].values(), two["baselines"].values())):
        for row, same in zip(found["accuracy_matrix"], other["accuracy_matrix"]):
            assert row == pytest.approx(same, abs=0.1)  # one image in a thousand
    assert printed.count("TensorBoard events are in") == 1
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))
    assert len(os.listdir(tmp_path / "two" / "tensorboard")) == 1


def launches(folder, *cases):
    """How the launches of :mod:`tests.launching` ended, and what each printed."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.launching", str(folder), "0", *cases]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    ended = json.loads((folder / "launches.json").read_text())
    return {name: (launch, (folder / f"{name}.log").read_text()) for name, launch in ended.items()}


def figures(folder):
    """Everything of a run's results but what it took and where it was made."""
    results = json.loads((folder / "results.json").read_text())
    took = ("images_per_second", "peak_memory_mb", "seconds_by_phase")
    observed = {name: value for name, value in results["observed"].items() if name not in took}
    without = ("seconds", "arguments", "environment")
    return {name: value for name, value in results.items() if name not in without} | {"observed": observed}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    return folder, launches(folder, "kill")


def test_under_torchrun_the_others_end_and_name_whom_they_lost(killed):
    _, ended = killed
    for rank in (0, 1):
        launch, printed = ended[f"rank {rank}"]
        assert launch["status"] == 1
        assert launch["seconds"] < 60
        assert f"rank {rank} was lost (its process is gone)" in printed.split("ChildFailedError")[0]
        # By torchrun itself, which may call either the cause.
        assert re.search(rf" rank +: {rank} .*\n +exitcode +: -9 ", printed)
    assert ended["all"][0]["seconds"] < 60


def test_the_same_command_goes_on_bit_for_bit_and_with_other_numbers_of_processes(killed):
    folder, _ = killed
    whole = figures(folder / "whole")
    assert figures(folder / "killed") == whole
    adapters = [(folder / name / "adapters.safetensors").read_bytes() for name in ("whole", "killed")]
    assert adapters[0] == adapters[1]
    for other in ("one", "three"):
        for row, same in zip(whole["accuracy_matrix"], figures(folder / other)["accuracy_matrix"]):
            assert row == pytest.approx(same, abs=0.1)  # one image in a thousand


def test_under_torchrun_an_error_of_one_process_is_told_by_the_others(tmp_path):
    ended = launches(tmp_path, "launcher", "fail", "interrupt")
    assert all(ended[name][0]["seconds"] < 60 for name in ("launcher", "interrupt", "interrupt all"))
    said = {name: printed for name, (_, printed) in ended.items()}
    assert "torchrun was lost" in said["launcher"]
    assert "rank 1 was lost (it stopped with ValueError: an image that cannot be read)" in said["training"]
    assert "rank 1 was lost (it stopped with KeyError: 'cat')" in said["evaluation"]
    assert "rank 0 was lost (it stopped with StoppedError: stopped. Kept: " in said["interrupt"]
    assert "stopped. Kept: " in said["interrupt all"]
