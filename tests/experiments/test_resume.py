"""A run of the command line that is killed with SIGKILL again and again."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_sdlora import Checkpoint
from experiments.arguments import Arguments
from experiments.methods import METHODS, joined
from experiments.resolve import resolve
from experiments.run import run
from tests.common import mlp, points_stream, snapshot
from tests.interrupted import Kill, KilledError
from tests.killing import SETTINGS

pytestmark = pytest.mark.slow


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
    for name in ("seconds_by_phase", "images_per_second", "peak_memory_mb"):
        del results["observed"][name]
    return results


def test_every_figure_is_that_of_the_uninterrupted_run(folder):
    assert figures(folder / "killed") == figures(folder / "whole")
    adapters = [(folder / name / "adapters.safetensors").read_bytes() for name in ("killed", "whole")]
    assert adapters[0] == adapters[1]


#: Metrics of the clock and of memory, which no two runs have alike.
COSTS = ("Time_Share", "Images_per_Second", "Peak_Memory_MB")


def test_tensorboard_has_every_event_once(folder):
    def events(name):
        found = EventAccumulator(str(folder / name / "tensorboard"), purge_orphaned_data=False).Reload()
        return {
            tag: [(e.step, e.value) for e in found.Scalars(tag)]
            for tag in found.Tags()["scalars"]
            if not tag.startswith(COSTS)
        }

    assert events("killed") == events("whole")


def test_nothing_unfinished_is_left(folder):
    left = {*os.listdir(folder / "killed")} - {"log.txt"}
    files = {"README.md", "adapters.safetensors", "config.toml", "report.html", "results.json"}
    assert left == files | {"figures", "tensorboard"}


def test_other_arguments_and_finished_runs_are_refused(folder, tmp_path):
    class StopError(Exception):
        pass

    def stop(*args):
        raise StopError

    assert (
        run(Arguments("digits", output=str(folder / "killed"), **SETTINGS))["acc"] == figures(folder / "whole")["acc"]
    )
    with pytest.raises(ValueError, match=r"is of another run \(seed 3 there, 4 asked\)"):
        run(Arguments("digits", output=str(folder / "killed"), **{**SETTINGS, "seed": 4}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.whole_run.experience_accuracies", stop)
        with pytest.raises(StopError):
            run(Arguments("digits", output=str(tmp_path), **SETTINGS))
    for changed in ({"seed": 4}, {"learning_rate": 0.5}, {"workers": 1}):
        (name,) = changed
        with pytest.raises(ValueError, match=f"belongs to another run: {name} was"):
            run(Arguments("digits", output=str(tmp_path), **{**SETTINGS, "baselines": False, **changed}))


class KillAtAnEnd(Kill):
    """Counts the end of an experience, too."""

    after_training_exp = Kill.after_training_iteration


def learn(name, folder, kill=-1, *, killer=Kill, more=None):
    """A method on two experiences of two epochs of four iterations."""
    Kill.left = kill
    torch.manual_seed(0)
    given = {"sdlora.rank": 2, "sdlora.targets": "*", **(more or {})}
    if METHODS[name].accepts is None or "expansion" in METHODS[name].accepts:
        given = {"sdlora.expansion": 50, **given}
    resolved = resolve(Arguments("digits", method=name, settings=given))
    method, stream = resolved.method, points_stream().train_stream
    model = method.model(mlp(), resolved.config)
    strategy = method.strategy(model, resolved.arguments, train_mb_size=10, train_epochs=2, evaluator=None)
    strategy.plugins.insert(1, killer())
    for experience in Checkpoint(folder, share=1).resume(strategy, joined(stream) if method.joint else stream[:2]):
        strategy.train(experience, eval_streams=[])
    return snapshot(strategy.model)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.resumable])
def test_every_method_that_says_so_can_be_resumed(name, tmp_path):
    whole = learn(name, tmp_path / "whole")
    # In the second epoch, and in the second experience where there is one that trains.
    for kill in (6, 7)[: 1 + (name != "ranpac")]:
        with pytest.raises(KilledError):
            learn(name, tmp_path / "killed", kill)
    after = learn(name, tmp_path / "killed")
    assert all(torch.equal(t, after[key]) for key, t in whole.items())


@pytest.mark.parametrize("kills", [(6, 9, 4), (13,), (13, 3)])
def test_a_longer_first_experience_goes_on_with_what_is_left_of_it(kills, tmp_path):
    settings = {"killer": KillAtAnEnd, "more": {"sdlora.first_epochs": 3}}
    whole = learn("sdlora", tmp_path / "whole", **settings)
    for kill in kills:  # 6: in its second epoch; 13, or 9 more: after its last; 3 and 4: in the second experience
        with pytest.raises(KilledError):
            learn("sdlora", tmp_path / "killed", kill, **settings)
    after = learn("sdlora", tmp_path / "killed", **settings)
    assert all(torch.equal(t, after[key]) for key, t in whole.items())


def test_a_method_whose_state_cannot_be_saved_says_so(tmp_path):
    assert [name for name, method in METHODS.items() if not method.resumable] == ["ewc", "replay"]
    for name in ("ewc", "replay"):
        with pytest.raises(ValueError, match="cannot be saved, so the run could not be resumed"):
            learn(name, tmp_path)
