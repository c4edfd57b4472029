"""A run that is stopped anywhere continues and ends as if it had not been."""

import os
from types import SimpleNamespace

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from avalanche.training.plugins import ReplayPlugin
from torch.optim import SGD

from avalanche_sdlora import Checkpoint, SDLoRAConfig
from tests.common import mlp, points_stream, snapshot
from tests.interrupted import KilledError, Remember, assert_same, script, strategy_in

EVERYTHING = SDLoRAConfig(rank=4, targets="*", energy=0.9, rank_budget=6, kd_tolerance=0.5, expansion=50)
KINDS = {
    "Adam": {},
    "momentum, scheduler": {"scheduler": True},
    "momentum kept": {"reset_optimizer_state": False, "config": SDLoRAConfig.reference(rank=2, targets="*")},
    "ranks reduced": {"config": EVERYTHING},
    "head that follows the features": {"config": SDLoRAConfig(rank=2, targets="*", head="ridge", drift="linear")},
    "periodic evaluation": {"eval_every": 1},
    "plugin on Naive": {"naive": True},
    "loader processes": {"workers": 1, "length": 2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_run_killed_many_times_equals_the_uninterrupted_one(kind, tmp_path):
    settings, folders = KINDS[kind], (tmp_path / "whole", tmp_path / "killed")
    whole = script(folders[0], **settings)
    killed = None
    for kill in range(6, 1000, 5):
        try:
            killed = script(folders[1], kill=kill, **settings)
            break
        except KilledError:
            assert os.listdir(folders[1]).count("checkpoint.safetensors") == 1
    assert kill > 12
    assert_same(whole, killed, folders)


def stopped(folder, kill=18, **kwargs):
    """The checkpoint of a run that was stopped, inside its second experience of 8 iterations and 3 of evaluation."""
    with pytest.raises(KilledError):
        script(folder, kill=kill, **kwargs)
    return folder / "checkpoint.safetensors"


def test_a_loss_that_is_not_finite_after_a_resume_puts_the_same_state_back(tmp_path):
    class Poison(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            if strategy.clock.train_iterations == 12:  # the first of the last epoch
                strategy.mb_output = strategy.mb_output * float("nan")

    left = []
    for _ in range(2):  # the second time, the bad loss comes first
        with pytest.raises(FloatingPointError, match=r"experience 1 .*epoch 4, iteration 1\."):
            script(tmp_path, plugins=[Poison(), Remember()], train_epochs=4)
        left.append(snapshot(Remember.strategy.model))
    assert all(torch.equal(t, left[1][name]) for name, t in left[0].items())


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = stopped(tmp_path, about={"seed": 1})
    before = path.read_bytes()
    for wrong, message in (
        ({"about": {"seed": 2}}, "belongs to another run: seed was 1 and is 2"),
        ({"length": 2}, "experiences was 3 and is 2"),
        ({"config": SDLoRAConfig(rank=3, targets="*", expansion=50)}, "config was"),
        ({"scheduler": True}, "plugins was"),
    ):
        with pytest.raises(ValueError, match=message):
            script(tmp_path, **{"about": {"seed": 1}, **wrong})
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused_and_what_was_half_written_is_removed(tmp_path):
    path = stopped(tmp_path)
    (tmp_path / ".checkpoint.safetensors.0123456789ab.tmp").write_bytes(b"half")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        script(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.safetensors", "tensorboard"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_from_which_the_run_continues(tmp_path):
    def full(*args):
        raise OSError(28, "No space left on device")

    whole = script(tmp_path / "whole")
    path = stopped(tmp_path / "killed", kill=10)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avalanche_sdlora.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            script(tmp_path / "killed")
    assert path.read_bytes() == before
    assert_same(whole, script(tmp_path / "killed"), (tmp_path / "whole", tmp_path / "killed"))


def test_plugins_whose_state_cannot_be_saved_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"ReplayPlugin\.storage_policy"):
        script(tmp_path, plugins=[ReplayPlugin(10)])
    with pytest.raises(ValueError, match="has no SDLoRAPlugin"):
        next(Checkpoint(tmp_path).resume(Naive(model=mlp(), optimizer=SGD(mlp().parameters(), 0.1)), []))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_persistent_loader_processes_are_refused(tmp_path):
    strategy = strategy_in(tmp_path)
    (experience, *_) = points_stream().train_stream
    next(Checkpoint(tmp_path).resume(strategy, [experience]))
    with pytest.raises(ValueError, match="persistent_workers=True"):
        strategy.train(experience, eval_streams=[], num_workers=1, persistent_workers=True)


def test_checkpoints_are_left_out_where_they_would_take_too_much_time(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("avalanche_sdlora.persistence.checkpoint.write_tensors", lambda *args: written.append(args))
    clock = iter(range(1000))
    monkeypatch.setattr("avalanche_sdlora.persistence.checkpoint.time", SimpleNamespace(monotonic=lambda: next(clock)))
    checkpoint, strategy = Checkpoint(tmp_path, share=0.1), strategy_in(tmp_path, train_epochs=20)
    for experience in checkpoint.resume(strategy, points_stream().train_stream[:1]):
        strategy.train(experience, eval_streams=[])
    # By this clock a checkpoint takes one tick, and so does looking at it after each of 20 epochs.
    assert 2 <= len(written) <= 4


def test_notes_and_removal(tmp_path):
    stopped(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.found
    assert len(checkpoint.notes["reports"]) == 1
    checkpoint.remove()
    assert not Checkpoint(tmp_path).found
