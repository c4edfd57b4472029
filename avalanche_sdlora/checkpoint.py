"""Checkpoints of a run: killed at any moment, it continues and ends as if it had not been."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import SupervisedPlugin
from avalanche.distributed import DistributedHelper
from torch import Tensor

from avalanche_sdlora.eventfiles import event_sizes, rewind_events, writers_of
from avalanche_sdlora.learned import check_learned, fingerprint, learned_state, load_learned
from avalanche_sdlora.plainstate import Putter, Taker
from avalanche_sdlora.plugin import SDLoRAPlugin
from avalanche_sdlora.randomness import random_state, set_random_state
from avalanche_sdlora.tensorfile import read_tensors, write_tensors

logger = logging.getLogger("avalanche_sdlora")

_KIND, _VERSION = "sdlora-checkpoint", 1
_FOREIGN = (AvalancheDataset, CLExperience, CLStream, CLScenario)


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
    is unpickled. On a CPU the continued run equals the uninterrupted one bit for bit. One is left out while all of
    them together would take more than ``share`` of the time: a kill costs an epoch, or 20 times what one takes.

    Args:
        folder: Gets the file ``checkpoint.safetensors``.
        about: What the run is made with, as JSON can say it. A checkpoint made with anything else is refused.
        share: Largest part of the time to spend on checkpoints.

    Attributes:
        notes: Anything of the script's own, as JSON can say it; it is saved, and here again when the run continues.
        found: Whether there was a checkpoint to continue from.

    Raises:
        ValueError: The checkpoint is damaged or was made with something else than ``about``.
    """

    def __init__(
        self, folder: str | os.PathLike[str], about: Mapping[str, Any] | None = None, *, share: float = 0.05
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: expected a part of the time, above 0 and at most 1")
        self.path = Path(folder, "checkpoint.safetensors")
        self.about = dict(about or {})
        self.share = share
        self.notes: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        self._saved: dict[str, Any] = {}
        for unfinished in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            unfinished.unlink()  # by a process that was killed while it wrote
        if self.path.exists():
            self._tensors, self._saved = read_tensors(self.path, _KIND, _VERSION)
            _compare(self.path, self._saved["about"], self.about)
            self.notes = self._saved["notes"]
        self.found = bool(self._saved)
        self._experience = 0  # experiences whose loop body is complete
        self._epochs: int | None = None  # the strategy's own number of epochs, while it is told a smaller one
        self._known: set[str] | None = None
        self._lost: set[str] = set()
        self._begun, self._spent, self._last = time.monotonic(), 0.0, 0.0

    def resume(self, strategy: Any, stream: Iterable[Any]) -> Iterator[Any]:
        """The experiences that are left to train on; the first may have been trained on for some epochs.

        Args:
            strategy: A fresh strategy, made as before. Its ``train`` must be called once with each experience.
            stream: The whole stream, the same as before.

        Raises:
            ValueError: The strategy has no :class:`SDLoRAPlugin` or a plugin whose state cannot be saved; or the
                checkpoint does not fit the strategy or the stream. Nothing has been changed.
        """
        experiences = list(stream)
        self._attach(strategy, len(experiences))
        if self._saved:
            self._load(strategy)
            self._experience = self._saved["experience"]
            if self._saved["inside"]:
                _sdlora(strategy).resuming = True
                strategy.evaluator.active = False  # what train() does before the first epoch has been logged already
            logger.info("continuing from %s", self.path)
        else:
            self._save(strategy, inside=False)
        for experience in experiences[self._experience :]:
            yield experience
            self._experience += 1
            self._save_in_time(strategy, inside=False)

    def remove(self) -> None:
        """Deletes the checkpoint of a run that is complete."""
        self.path.unlink(missing_ok=True)

    # -- callbacks: this plugin is the last, so that clock and metrics have done theirs --------------------------------

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Inside an experience: everything back to the end of the last epoch, and only the other epochs to go."""
        if kwargs.get("persistent_workers") and kwargs.get("num_workers"):
            raise ValueError(
                "persistent_workers=True: the random state of loader processes cannot be saved; leave it out"
            )
        plugin = _sdlora(strategy)
        if plugin.resuming:
            self._load(strategy)
            plugin.resuming = False
            self._epochs = strategy.train_epochs
            strategy.train_epochs -= strategy.clock.train_exp_epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """The number of epochs has been read."""
        self._restore_epochs(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """A checkpoint, unless they take too much time."""
        self._save_in_time(strategy, inside=True)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The number of epochs, should none have been left."""
        self._restore_epochs(strategy)

    def _restore_epochs(self, strategy: Any) -> None:
        if self._epochs is not None:
            strategy.train_epochs, self._epochs = self._epochs, None

    # -- saving --------------------------------------------------------------------------------------------------------

    def _attach(self, strategy: Any, experiences: int) -> None:
        _sdlora(strategy).before_training(strategy)  # the model is an SDLoRAModel from here on
        if self not in strategy.plugins:
            strategy.plugins.append(self)
        self._made_with = {
            "experiences": experiences,
            "config": strategy.model.config.to_dict(),
            "backbone": fingerprint(strategy.model),
            "plugins": [type(plugin).__name__ for plugin in strategy.plugins],
            "metrics": [str(metric) for metric in strategy.evaluator.metrics],
        }
        if self._saved:
            _compare(self.path, self._saved["made_with"], self._made_with)
            check_learned(strategy.model, _part(self._tensors, "model."))
        taker = self._taker(strategy)
        self._take_plugins(strategy, taker)
        self._known = taker.objects

    def _save_in_time(self, strategy: Any, inside: bool) -> None:
        if self._spent + self._last <= self.share * (time.monotonic() - self._begun):
            self._save(strategy, inside)

    def _save(self, strategy: Any, inside: bool) -> None:
        if not DistributedHelper.is_main_process:
            return
        begun = time.monotonic()
        taker, plugin = self._taker(strategy), _sdlora(strategy)
        saved = {
            "about": self.about,
            "made_with": self._made_with,
            "experience": self._experience,
            "inside": inside,
            "stop": strategy._stop_training,
            "notes": self.notes,
            "optimizer": taker.take(strategy.optimizer.state_dict(), "optimizer"),
            "good": taker.take(plugin.last_good(), "good"),
            "plugins": self._take_plugins(strategy, taker),
            "random": taker.take(random_state(), "random"),
            "events": [event_sizes(writer) for writer in writers_of(strategy.evaluator.loggers)],
        }
        tensors = {f"plain.{name}": t for name, t in taker.tensors.items()}
        tensors |= {f"model.{name}": t for name, t in learned_state(strategy.model).items()}
        tensors |= {f"criterion.{name}": t for name, t in strategy._criterion.state_dict().items()}
        write_tensors(self.path, _KIND, _VERSION, tensors, saved)
        self._last = time.monotonic() - begun
        self._spent += self._last

    def _taker(self, strategy: Any) -> Taker:
        own = (strategy, strategy.model, strategy.optimizer, strategy._criterion, _sdlora(strategy), self)
        return Taker((*own, *strategy.evaluator.loggers), _FOREIGN, self._known)

    def _take_plugins(self, strategy: Any, taker: Taker) -> list[Any]:
        trees = [taker.take(p, f"{type(p).__name__}") for p in strategy.plugins]
        for path, kind in taker.problems.items():
            if not path.startswith("EvaluationPlugin"):
                raise ValueError(
                    f"{path}, {kind}: such state of a plugin cannot be saved, so the run could not be resumed; train "
                    "without this plugin, or without a Checkpoint"
                )
            place = re.sub(r"(\[\d+\])+$", "", path)  # a picture or a thread in a metric changes no weight
            if place not in self._lost:
                logger.warning("%s (%s) is not saved: after a resume it begins anew", place, kind)
                self._lost.add(place)
        return trees

    # -- loading -------------------------------------------------------------------------------------------------------

    def _load(self, strategy: Any) -> None:
        saved, putter, plugin = self._saved, Putter(_part(self._tensors, "plain.")), _sdlora(strategy)
        load_learned(strategy.model, _part(self._tensors, "model."))
        strategy._criterion.load_state_dict(_part(self._tensors, "criterion."))
        strategy._criterion.to(strategy.device)
        plugin.take_over(strategy, putter.put(None, saved["good"], "good"))
        strategy.optimizer.load_state_dict(putter.put(None, saved["optimizer"], "optimizer"))
        for live, tree in zip(strategy.plugins, saved["plugins"], strict=True):
            putter.put(live, tree, type(live).__name__)
        strategy._stop_training = saved["stop"]
        for writer, sizes in zip(writers_of(strategy.evaluator.loggers), saved["events"], strict=True):
            rewind_events(writer, sizes)
        set_random_state(putter.put(None, saved["random"], "random"))


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that was made with something else."""
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if differing:
        said = "; ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in differing)
        raise ValueError(
            f"the checkpoint {str(path)!r} belongs to another run: {said}. Repeat it, or name a new folder"
        )


def _sdlora(strategy: Any) -> SDLoRAPlugin:
    for plugin in strategy.plugins:
        if isinstance(plugin, SDLoRAPlugin):
            return plugin
    raise ValueError(f"strategy: {type(strategy).__name__} has no SDLoRAPlugin; only what that trains can be resumed")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
