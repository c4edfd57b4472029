"""A run of the command line that torchrun starts in two processes has the table of one process."""

import json
import os
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
