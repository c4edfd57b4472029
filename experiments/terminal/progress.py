"""One line that says where a run is, as a logger of Avalanche."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger
from rich.console import Console
from rich.live import Live
from rich.text import Text

_LOOK = 0.25  # seconds between two looks at the loss, which may wait for the device
_PLAIN = 30.0  # seconds between two lines where a line cannot be rewritten


class Progress(BaseLogger, SupervisedPlugin):
    """Tells where training is: on a terminal in one line that is rewritten, in a file or a pipe every half minute.

    When an experience has been evaluated, a line stays that says how it went.

    Args:
        images: Number of training images of each experience, also of those that were learned before a resume.
        epochs: Epochs over an experience that has not begun; of the present one the strategy knows.
        console: Where to print; the terminal by default.
        quiet: Print nothing.
    """

    def __init__(
        self, images: Sequence[int], epochs: int, *, console: Console | None = None, quiet: bool = False
    ) -> None:
        super().__init__()
        self._images, self._epochs, self._quiet = list(images), epochs, quiet
        self._console = console or Console()
        self._live: Live | None = None
        self._begun: float | None = None
        self._exp_begun = self._looked = self._told = time.monotonic()
        self._work = 0  # images seen in training since the beginning of this program
        self._seen = self._hits = self._tested = 0
        self._rate_from = (0, 0.0)
        self._text = self._untold = ""
        self._trains = False

    # -- training --------------------------------------------------------------------------------------------------

    def before_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begin to show the line; what an experience without an evaluation has left is told first."""
        now = time.monotonic()
        if self._untold and not self._quiet:
            self._console.print(self._untold, highlight=False)
            self._told = now
        self._untold = ""
        self._begun = self._begun or now
        self._exp_begun, self._trains = now, True
        self._start()

    def before_training_epoch(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begin to count anew."""
        self._seen = self._hits = 0
        self._rate_from = (self._work, time.monotonic())

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Count, and look from time to time."""
        self._work += len(strategy.mb_y)
        now = time.monotonic()
        if now - self._looked < _LOOK or self._quiet:
            return
        self._looked = now
        self._seen += len(strategy.mb_y)
        self._hits += competing_hits(strategy)
        clock = strategy.clock
        images, since = self._rate_from
        self._say(
            f"{self._where(clock.train_exp_counter)} · epoch {clock.train_exp_epochs + 1} of {strategy.train_epochs}"
            f"{self._left(strategy, now)} · accuracy {100 * self._hits / self._seen:.0f} % · "
            f"loss {float(strategy.loss.detach()):.3f} · {(self._work - images) / max(now - since, 1e-6):.0f} images/s"
        )

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Say what comes next."""
        where = self._where(strategy.clock.train_exp_counter)
        self._say(f"{where} · learned")
        self._untold = f"{where}: learned, not tested, {duration(time.monotonic() - self._exp_begun)}"

    def after_training(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """An evaluation from now on is one of its own."""
        self._trains = False
        self.close()

    # -- evaluation ------------------------------------------------------------------------------------------------

    def before_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begin to count test images."""
        self._tested = 0
        self._accuracies: list[float] = []
        self._start()

    def before_eval_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Begin an experience."""
        self._eval_hits = self._eval_seen = 0

    def after_eval_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Count right answers."""
        self._eval_hits += int((strategy.mb_output.argmax(1) == strategy.mb_y).sum())
        self._eval_seen += len(strategy.mb_y)
        self._tested += len(strategy.mb_y)
        self._say(f"{self._where(strategy.clock.train_exp_counter - 1)} · tested {self._tested:,} images")

    def after_eval_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Close an experience."""
        self._accuracies.append(100 * self._eval_hits / max(self._eval_seen, 1))

    def after_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Leave a line of how the experience went."""
        done = strategy.clock.train_exp_counter
        if self._trains or not done or not self._accuracies:
            return
        self._untold = ""
        self.close()
        if not self._quiet:
            mean = sum(self._accuracies) / len(self._accuracies)
            own = f"{self._accuracies[done - 1]:.1f} % on its own" if len(self._accuracies) == done else ""
            seconds = duration(time.monotonic() - self._exp_begun)
            told = " and ".join(filter(None, (own, f"{mean:.1f} % on all tasks so far")))
            self._console.print(f"{self._where(done - 1)}: {told}, {seconds}", highlight=False)
            self._told = time.monotonic()

    # -- the line --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take the line away, so that others can print."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich__(self) -> Text:
        return Text(self._text, no_wrap=True, overflow="ellipsis")

    def _start(self) -> None:
        if self._console.is_terminal and not self._quiet and self._live is None:
            self._live = Live(self, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def _say(self, text: str) -> None:
        self._text = text
        now = time.monotonic()
        if self._live is None and not self._quiet and now - self._told >= _PLAIN:
            self._told = now
            self._console.print(text, highlight=False, soft_wrap=True)

    def _where(self, experience: int) -> str:
        return f"task {experience + 1} of {len(self._images)}"

    def _left(self, strategy: Any, now: float) -> str:
        """How long the run will take from here, if all goes on as it did so far, evaluations included."""
        clock = strategy.clock
        present = self._images[clock.train_exp_counter]
        ahead = self._epochs * sum(self._images[clock.train_exp_counter + 1 :])
        ahead += present * (strategy.train_epochs - clock.train_exp_epochs)
        ahead -= min(present, clock.train_epoch_iterations * strategy.train_mb_size)
        spent = now - (self._begun or now)
        return f" · {duration(spent * ahead / self._work)} left" if spent > 2 and ahead > 0 else ""


@torch.no_grad()
def competing_hits(strategy: Any) -> int:
    """The right answers of the present batch where the classes compete that the loss lets compete."""
    current = getattr(strategy._criterion, "current", None)  # (classes,)
    logits = strategy.mb_output
    if current is not None and len(current):
        width = min(len(current), logits.shape[1])
        logits = logits[:, :width].masked_fill(~current[:width], float("-inf"))
    return int((logits.argmax(1) == strategy.mb_y).sum())


def duration(seconds: float) -> str:
    """A duration as people say it: ``42 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
