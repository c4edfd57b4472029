"""Everything that a strategy keeps while it trains with SD-LoRA, taken out and put back."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor

from avalanche_sdlora.learned import check_learned, learned_state, load_learned
from avalanche_sdlora.persistence.eventfiles import event_sizes, rewind_events, writers_of
from avalanche_sdlora.persistence.fingerprint import fingerprint
from avalanche_sdlora.persistence.plainstate import Putter, Taker
from avalanche_sdlora.processes import gather_rows, is_first, share
from avalanche_sdlora.training.plugin import SDLoRAPlugin
from avalanche_sdlora.training.randomness import random_state, set_random_state
from avalanche_sdlora.training.shared_work import SharedWork

logger = logging.getLogger("avalanche_sdlora")

# What each of several processes has of its own images alone, in the order of the ranks: its rows are saved together.
_SHARED_OUT = ("closed_form.before",)
_FOREIGN = (AvalancheDataset, CLExperience, CLStream, CLScenario)


class RunState:
    """The state of a strategy: model, criterion, optimizer, plugins, metrics, loggers' files and random generators.

    Args:
        strategy: A fresh strategy; the model is adapted here, if it is not yet.
        keeper: The plugin that saves the state; its own state is left out.

    Raises:
        ValueError: The strategy has no :class:`SDLoRAPlugin`, or a plugin whose state cannot be taken.
    """

    def __init__(self, strategy: Any, keeper: Any) -> None:
        self._strategy, self._keeper = strategy, keeper
        self.plugin = sdlora_of(strategy)
        self.plugin.attach(strategy)
        self._known: set[str] | None = None
        self._lost: set[str] = set()
        taker = self._taker()
        self._take_plugins(taker)
        self._known = taker.objects

    def epochs(self) -> int:
        """Epochs of the present experience that are complete."""
        return int(self._strategy.clock.train_exp_epochs)

    def made_with(self) -> dict[str, Any]:
        """Facts that a strategy must share with the one whose state it continues from."""
        strategy = self._strategy
        return {
            "config": strategy.model.config.to_dict(),
            "backbone": fingerprint(strategy.model),
            "plugins": [type(plugin).__name__ for plugin in self._plugins()],
            "metrics": [str(metric) for metric in strategy.evaluator.metrics],
        }

    def take(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The present state, as values of JSON and tensors.

        Raises:
            ValueError: A plugin has come to hold something that cannot be taken.
        """
        strategy, taker = self._strategy, self._taker()
        saved = {
            "stop": strategy._stop_training,
            "trains": [name for name, p in strategy.model.named_parameters() if p.requires_grad],
            "optimizer": taker.take(strategy.optimizer.state_dict(), "optimizer"),
            "sdlora": taker.take(self.plugin.state(), "sdlora"),
            "plugins": self._take_plugins(taker),
            "random": taker.take(random_state(), "random"),
            "events": [event_sizes(writer) for writer in writers_of(strategy.evaluator.loggers)],
        }
        tensors = {f"plain.{name}": t for name, t in taker.tensors.items()}
        learned = learned_state(strategy.model)
        learned |= {name: gather_rows(learned[name])[0] for name in _SHARED_OUT if name in learned}
        tensors |= {f"model.{name}": t for name, t in learned.items()}
        tensors |= {f"criterion.{name}": t for name, t in strategy._criterion.state_dict().items()}
        return saved, tensors

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuses tensors that the model could not load; nothing is changed.

        Raises:
            ValueError: The tensors do not fit.
        """
        check_learned(self._strategy.model, _part(tensors, "model."))

    def put(self, saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Puts the state of :meth:`take` back."""
        strategy, putter = self._strategy, Putter(_part(tensors, "plain."))
        learned = _part(tensors, "model.")
        for name in _SHARED_OUT:
            if name in learned:
                own = share(len(learned[name]))
                learned[name] = learned[name][own.start : own.stop]
        load_learned(strategy.model, learned)
        trains = set(saved["trains"])  # plugins may have frozen some
        for name, parameter in strategy.model.named_parameters():
            parameter.requires_grad_(name in trains)
        strategy._criterion.load_state_dict(_part(tensors, "criterion."))
        strategy._criterion.to(strategy.device)
        self.plugin.take_over(strategy, putter.put(None, saved["sdlora"], "sdlora"))
        strategy.optimizer.load_state_dict(putter.put(None, saved["optimizer"], "optimizer"))
        loggers = strategy.evaluator.loggers
        for live, tree in zip(self._plugins(), saved["plugins"], strict=True):
            putter.put(live, tree, type(live).__name__)
        strategy._stop_training = saved["stop"]
        if is_first():
            for writer, sizes in zip(writers_of(loggers), saved["events"], strict=True):
                rewind_events(writer, sizes)
        else:
            strategy.evaluator.loggers = loggers  # it has none, and the state is that of the first process
        set_random_state(putter.put(None, saved["random"], "random"))

    def _plugins(self) -> list[Any]:
        """Those of a program of one process, so that another number of processes can continue."""
        return [plugin for plugin in self._strategy.plugins if not isinstance(plugin, SharedWork)]

    def _taker(self) -> Taker:
        strategy = self._strategy
        own = (strategy, strategy.model, strategy.optimizer, strategy._criterion, self.plugin, self._keeper)
        return Taker((*own, *strategy.evaluator.loggers), _FOREIGN, self._known)

    def _take_plugins(self, taker: Taker) -> list[Any]:
        trees = [taker.take(plugin, type(plugin).__name__) for plugin in self._plugins()]
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


def sdlora_of(strategy: Any) -> SDLoRAPlugin:
    """The strategy's :class:`SDLoRAPlugin`.

    Raises:
        ValueError: The strategy has none.
    """
    for plugin in strategy.plugins:
        if isinstance(plugin, SDLoRAPlugin):
            return plugin
    raise ValueError(f"strategy: {type(strategy).__name__} has no SDLoRAPlugin; only what that trains can be resumed")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
