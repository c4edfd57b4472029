"""Checkpoints of a run, so that a run killed at any moment continues and ends as if it had not been killed."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_sdlora import processes
from avalanche_sdlora.files import remove_unfinished
from avalanche_sdlora.persistence.runstate import RunState
from avalanche_sdlora.persistence.tensorfile import read_tensors, write_tensors

logger = logging.getLogger("avalanche_sdlora")

#: The file of a checkpoint, in the folder of its run.
CHECKPOINT = "checkpoint.safetensors"

_KIND, _VERSION = "sdlora-checkpoint", 2


class Checkpoint(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Makes the training of a strategy that has an :class:`SDLoRAPlugin` resumable.

    A script that is run again continues where its last checkpoint was made::

        checkpoint = Checkpoint("runs/mine")
        for experience in checkpoint.resume(strategy, benchmark.train_stream):
            strategy.train(experience, eval_streams=[])
            metrics = strategy.eval(benchmark.test_stream)
            checkpoint.notes.setdefault("accuracy", []).append(...)
        checkpoint.remove()

    A checkpoint is made after every epoch and at the end of the loop's body: what the model has learned (of the
    backbone a checksum), optimizer and criterion, the random generators, the state of plugins, clock and metrics with
    their histories, and the length of TensorBoard's files. It is one safetensors file, replaced in one step; nothing
    is unpickled. On a CPU the continued run equals the uninterrupted one bit for bit. A checkpoint is left out while
    all of them together would take more than ``share`` of the time: a kill costs an epoch, or with the default share 50
    times as long as a checkpoint takes.

    Several processes make one checkpoint each time: all of them call everything here, the first writes. Another number
    of processes can continue; with the one that was killed the continued run is again equal bit for bit.

    Args:
        folder: Gets the file ``checkpoint.safetensors``. It is the run's own: files that a killed process left
            unfinished there are removed.
        about: The settings of the run, as values of JSON. A checkpoint made with other settings is refused.
        share: Largest part of the time to spend on checkpoints.

    Attributes:
        notes: The script's own values of JSON; they are saved, and here again when the run continues.
        before_saving: Called before each checkpoint, to bring the notes up to date.
        found: Whether there was a checkpoint to continue from.
        kept: What the last checkpoint holds: how many experiences are complete, and how many epochs of the next one,
            of which those before a resume are not counted; None while there is none.

    Raises:
        ValueError: The checkpoint is damaged or was made with other settings than ``about``.
    """

    def __init__(
        self, folder: str | os.PathLike[str], about: Mapping[str, Any] | None = None, *, share: float = 0.02
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: expected a part of the time, above 0 and at most 1")
        self.path = Path(folder, CHECKPOINT)
        self.about = _as_json(about or {})
        self.share = share
        self.notes: dict[str, Any] = {}
        self.before_saving: Callable[[], None] = lambda: None
        self._tensors: dict[str, Tensor] = {}
        self._saved: dict[str, Any] = {}
        processes.start()
        if processes.is_first():
            remove_unfinished(folder)
        if self.path.exists():
            self._tensors, self._saved = read_tensors(self.path, _KIND, _VERSION)
            _compare(self.path, self._saved["about"], self.about)
            self.notes = self._saved["notes"]
        self.found = bool(self._saved)
        # All have read before any goes on and writes.
        processes.check_same(
            (self.found, self._saved.get("experience"), self._saved.get("inside")),
            f"the checkpoint {str(self.path)!r}, whose folder all machines must share (found, experience, inside),",
        )
        self.kept: tuple[int, int] | None = (self._saved["experience"], 0) if self.found else None
        self._inside = False  # whether the next experience is to be continued from its last epoch
        self._experience = 0  # experiences whose loop body is complete
        self._epochs: int | None = None  # the strategy's own number of epochs, while it is told a smaller one
        self._begun, self._spent, self._last = time.monotonic(), 0.0, 0.0

    def resume(self, strategy: Any, stream: Iterable[Any]) -> Iterator[Any]:
        """The experiences that are left to train on; the first may have been trained on for some epochs.

        Args:
            strategy: A fresh strategy, made as before. Its ``train`` must be called once with each experience.
            stream: The whole stream that was trained on before the interruption.

        Raises:
            ValueError: The strategy has no :class:`SDLoRAPlugin` or a plugin whose state cannot be saved; or the
                checkpoint does not fit the strategy or the stream. Nothing has been changed.
        """
        experiences = list(stream)
        self._attach(strategy, len(experiences))
        if self._saved:
            self._state.put(self._saved["state"], self._tensors)
            self._experience = self._saved["experience"]
            self._inside = self._saved["inside"]
            if self._inside:
                self._state.plugin.resume_inside()
                strategy.evaluator.active = False  # what train() does before the first epoch has been logged already
            logger.info("continuing from %s", self.path)
        else:
            self._save(inside=False)
        for experience in experiences[self._experience :]:
            yield experience
            self._experience += 1
            self._save_in_time(inside=False)

    def remove(self) -> None:
        """Deletes the checkpoint of a run that is complete."""
        if processes.is_first():
            self.path.unlink(missing_ok=True)

    # -- callbacks: this plugin is the last, so that clock and metrics have done theirs --------------------------------

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Inside an experience, go back to the end of the last epoch, and leave only the other epochs to train."""
        if kwargs.get("persistent_workers") and kwargs.get("num_workers"):
            raise ValueError(
                "persistent_workers=True: the random state of loader processes cannot be saved; leave it out"
            )
        if self._inside:
            self._state.put(self._saved["state"], self._tensors)
            self._inside = False
            self._epochs = strategy.train_epochs
            strategy.train_epochs -= strategy.clock.train_exp_epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Give the strategy its own number of epochs back, now that it has been read."""
        self._restore_epochs(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Make a checkpoint, unless checkpoints take too much time."""
        self._save_in_time(inside=True)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Give the strategy its own number of epochs back, should no epoch have been left."""
        self._restore_epochs(strategy)

    def _restore_epochs(self, strategy: Any) -> None:
        if self._epochs is not None:
            strategy.train_epochs, self._epochs = self._epochs, None

    # -- saving --------------------------------------------------------------------------------------------------------

    def _attach(self, strategy: Any, experiences: int) -> None:
        if self not in strategy.plugins:
            strategy.plugins.append(self)
        self._state = RunState(strategy, self)
        self._made_with = _as_json({"experiences": experiences, **self._state.made_with()})
        if self._saved:
            _compare(self.path, self._saved["made_with"], self._made_with)
            self._state.check(self._tensors)

    def _save_in_time(self, inside: bool) -> None:
        if processes.first_object(self._spent + self._last <= self.share * (time.monotonic() - self._begun)):
            self._save(inside)

    def _save(self, inside: bool) -> None:
        begun = time.monotonic()
        self.before_saving()
        state, tensors = self._state.take()
        saved = {
            "about": self.about,
            "made_with": self._made_with,
            "experience": self._experience,
            "inside": inside,
            "notes": self.notes,
            "state": state,
        }
        if processes.is_first():
            write_tensors(self.path, _KIND, _VERSION, tensors, saved)
        self.kept = (self._experience, self._state.epochs() if inside else 0)
        self._last = time.monotonic() - begun
        self._spent += self._last


def _as_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """The value as it will be when it has been written and read."""
    return json.loads(json.dumps(data))


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that was made with other settings."""
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if differing:
        said = "; ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in differing)
        raise ValueError(
            f"the checkpoint {str(path)!r} belongs to another run: {said}. Repeat it, or name a new folder"
        )
