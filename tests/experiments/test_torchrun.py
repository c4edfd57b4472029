"""A run of the command line that torchrun starts has the table of one process, whoever is lost meanwhile."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def launches(folder):
    """How the launches of :mod:`tests.launching` ended, and what each printed."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.launching", str(folder), "0"]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    ended = json.loads((folder / "launches.json").read_text())
    return {name: (launch, (folder / f"{name}.log").read_text()) for name, launch in ended.items()}


def figures(folder):
    """Everything of a run's results but what it took, where it was made, and what some runs leave out."""
    results = json.loads((folder / "results.json").read_text())
    other = ("images_per_second", "peak_memory_mb", "seconds_by_phase", "most_wrong")
    observed = {name: value for name, value in results["observed"].items() if name not in other}
    without = ("seconds", "arguments", "environment", "baselines")
    return {name: value for name, value in results.items() if name not in without} | {"observed": observed}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    return folder, launches(folder)


def test_two_processes_give_the_table_of_one_and_the_first_alone_speaks(launched):
    folder, ended = launched
    assert ended["alone"][0]["status"] == ended["whole"][0]["status"] == 0
    one, two = (json.loads((folder / name / "results.json").read_text()) for name in ("alone", "whole"))
    assert two["environment"]["processes"] == 2
    assert one["baselines"].keys() == two["baselines"].keys() != set()
    for found, other in ((one, two), *zip(one["baselines"].values(), two["baselines"].values())):
        for row, same in zip(found["accuracy_matrix"], other["accuracy_matrix"], strict=True):
            assert row == pytest.approx(same, abs=0.1)  # one image in a thousand
    assert ended["whole"][1].count("TensorBoard events are in") == 1
    assert sorted(os.listdir(folder / "whole")) == sorted(os.listdir(folder / "alone"))
    assert len(os.listdir(folder / "whole" / "tensorboard")) == 1


def test_processes_may_join_before_avalanche_is_imported(tmp_path):
    program = "from avalanche_sdlora import processes\nprocesses.start()\nfrom avalanche_sdlora import SDLoRAStrategy\n"
    (tmp_path / "script.py").write_text(program + "print('rank', processes.rank(), 'has', SDLoRAStrategy.__name__)\n")
    words = [*("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"), tmp_path / "script.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {f"rank {rank} has SDLoRAStrategy" for rank in (0, 1)} <= set(done.stdout.splitlines())


def test_under_torchrun_the_others_end_and_name_whom_they_lost(launched):
    _, ended = launched
    for rank in (0, 1):
        launch, printed = ended[f"rank {rank}"]
        assert launch["status"] == 1
        assert launch["seconds"] < 60
        assert f"rank {rank} was lost (its process is gone)" in printed.split("ChildFailedError")[0]
        # By torchrun itself, which may call either the cause.
        assert re.search(rf" rank +: {rank} .*\n +exitcode +: -9 ", printed)
    assert ended["all"][0]["seconds"] < 60


def test_the_same_command_goes_on_bit_for_bit_and_with_another_number_of_processes(launched):
    folder, _ = launched
    whole = figures(folder / "whole")
    assert figures(folder / "killed") == whole
    adapters = [(folder / name / "adapters.safetensors").read_bytes() for name in ("whole", "killed")]
    assert adapters[0] == adapters[1]
    for row, same in zip(whole["accuracy_matrix"], figures(folder / "one")["accuracy_matrix"], strict=True):
        assert row == pytest.approx(same, abs=0.1)  # one image in a thousand


def test_under_torchrun_an_error_of_one_process_is_told_by_the_others(launched):
    _, ended = launched
    assert all(ended[name][0]["seconds"] < 60 for name in ("launcher", "interrupt", "interrupt all"))
    said = {name: printed for name, (_, printed) in ended.items()}
    assert "torchrun was lost" in said["launcher"]
    assert "rank 1 was lost (it stopped with ValueError: an image that cannot be read)" in said["training"]
    assert "rank 1 was lost (it stopped with KeyError: 'cat')" in said["evaluation"]
    assert "rank 0 was lost (it stopped with StoppedError: stopped. Kept: " in said["interrupt"]
    assert "stopped. Kept: " in said["interrupt all"]
