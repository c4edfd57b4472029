"""Several processes learn the model of one, and whatever goes wrong in one of them stops all."""

import json
import os
import subprocess
import sys

import pytest
import torch

from avalanche_sdlora import processes
from tests.shared_cases import CASES, FAILING, cases_of

SIZES = (2, 3)


def run_together(folder, sizes, names):
    """The folder with what the cases of ``names`` returned, in as many processes as ``sizes`` say."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.together", str(folder), *map(str, sizes), "--", *names]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False, timeout=1500)
    logs = "".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(folder.glob("log-*.log")))
    assert done.returncode == 0, done.stderr[-2000:] + logs
    return folder


def found(folder, name, size):
    return [torch.load(folder / f"{name}-{size}-{rank}.pt", weights_only=False) for rank in range(size)]


def assert_one_model(folder, name, size):
    """What ``size`` processes learned is what one learned, and all of them hold the same bits."""
    (one,) = found(folder, name, 1)
    first, *others = found(folder, name, size)
    assert_ranks_alike(first, *others)
    exact = one["state"]["head.weight"].dtype == torch.float64
    assert one["state"].keys() == first["state"].keys()
    for key, t in one["state"].items():
        other = first["state"][key].double()
        if ".sums." in key and exact:
            assert (t.double() - other).abs().max() <= 1e-12 * t.double().abs().max(), key
        relative = 1e-9 if ".evidence." in key else 0  # sums that may be large
        torch.testing.assert_close(other, t.double(), rtol=relative, atol=1e-10 if exact else 1e-5, msg=key)
    assert one["metrics"].keys() == first["metrics"].keys()
    for key, (places, values) in one["metrics"].items():
        assert places == first["metrics"][key][0]
        close = 1e-6 if "Loss" in key or not exact else 0  # Avalanche sums losses up in float32
        torch.testing.assert_close(first["metrics"][key][1], values, rtol=0, atol=close, msg=key)
    assert torch.equal(one["predicted"], first["predicted"])


def assert_ranks_alike(first, *others):
    for other in others:
        assert all(torch.equal(t, other["state"][key]) for key, t in first["state"].items())
        assert first["metrics"] == other["metrics"]
        assert torch.equal(first["predicted"], other["predicted"])


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return run_together(tmp_path_factory.mktemp("every"), (1, *SIZES), [*FAILING, *CASES, "lose"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [(n, s) for s in SIZES for n in CASES if n in cases_of(s)])
def test_every_method_and_stream_is_that_of_one_process(every, name, size):
    assert_one_model(every, name, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_the_state_before(every, size):
    results = [*found(every, "not finite", 1), *found(every, "not finite", size)]
    assert len({result["error"] for result in results}) == 1
    assert "FloatingPointError" in results[0]["error"]
    for result in results:
        assert all(torch.equal(t, result["after"][name]) for name, t in result["before"].items())
        assert result["experiences"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_bits_that_differ_are_an_error_that_names_the_tensor_and_the_ranks(every, size):
    (error,) = set(found(every, "differing", size))
    ranks = "rank 0 | rank 1" if size == 2 else "rank 0, 1 | rank 2"
    assert f"'head.bias' is not the same in all processes ({ranks})" in error
    assert found(every, "differing", 1) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_another_stream_in_another_process_is_refused(every, size):
    (error,) = set(found(every, "another stream", size))
    assert error.startswith("RuntimeError: the experience (a stream is made with a seed) differs")


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_what_cannot_be_shared_is_refused_by_name(every, size):
    for agem, scheduler, device in found(every, "refused", size):
        assert agem.startswith("ValueError: AGEMPlugin cannot train in several processes")
        assert scheduler.startswith("ValueError: LRSchedulerPlugin(metric='train_loss')")
        assert "say device='cuda'" in device


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_first_process_alone_logs_and_every_process_knows_the_figures(every, size):
    first, *others = found(every, "loggers", size)
    assert first["loggers"] == 2
    assert all(other["loggers"] == 0 for other in others)
    assert len(os.listdir(every / f"logs-{size}")) == 1
    assert first["metrics"]
    assert all(other["metrics"] == first["metrics"] for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_step_sends_what_the_formula_says_and_features_are_kept_by_one_process_each(every, size):
    results = found(every, "cost", size)
    assert all(result["bytes"] == result["formula"] for result in results)
    assert sum(result["kept"] for result in results) == 40
    assert max(result["kept"] for result in results) == -(-40 // size)


def test_one_process_needs_no_launcher_and_half_a_launcher_is_refused(monkeypatch):
    assert (processes.size(), processes.rank(), list(processes.share(5))) == (1, 0, [0, 1, 2, 3, 4])
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    processes.start()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE=2 but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"):
        processes.start()


@pytest.mark.slow
def test_a_lost_process_is_named_by_the_others_which_end_within_a_minute(every):
    runs = json.loads((every / "lost.json").read_text())
    for name, victim, size in (
        ("lost rank 1", 1, 2),
        ("lost rank 0", 0, 2),
        ("silent rank 1", 1, 2),
        ("lost rank 1 of three", 1, 3),
    ):
        assert runs[name]["seconds"] < 60
        for rank, status in enumerate(runs[name]["status"]):
            assert status == (-9 if rank == victim else 1)
            if rank != victim:
                assert f"rank {victim} was lost" in (every / f"{name}-{size}-{rank}.log").read_text()


@pytest.mark.slow
def test_the_run_goes_on_bit_for_bit_and_with_another_number_of_processes_correctly(every):
    whole, resumed = found(every, "whole", 2), found(every, "resumed", 2)
    assert_ranks_alike(*whole, *resumed)
    (one,) = found(every, "whole by one", 1)
    for name, size in (("resumed by one", 1), ("resumed by four", 4)):
        for other in found(every, name, size):
            for key, t in one["state"].items():
                torch.testing.assert_close(other["state"][key].double(), t.double(), rtol=0, atol=1e-10, msg=key)
            assert torch.equal(one["predicted"], other["predicted"])
