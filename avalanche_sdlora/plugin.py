"""SD-LoRA as an Avalanche plugin: what happens at which callback, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_sdlora import stream
from avalanche_sdlora.compatibility import check_strategy
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.guard import FiniteLossGuard
from avalanche_sdlora.heads.passes import present_features
from avalanche_sdlora.loss import CurrentClassesLoss
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.optim import check_groups, fill_optimizer


class SDLoRAPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Makes a supervised Avalanche strategy learn with SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198).

    Before each training experience it freezes and normalises the directions learned so far, opens a new one, grows the
    head, and fills the optimizer with exactly the parameters that train now. After it, ranks are reduced as the config
    says, and a head in closed form learns from one pass over the images of ``strategy.adapted_dataset`` in their
    evaluation transform. Evaluation changes nothing.

    Give it first in the strategy's list, so that other plugins see the model of the current experience::

        strategy = Naive(model=vit, optimizer=SGD(vit.parameters(), lr=0.01), plugins=[SDLoRAPlugin(), ...])

    The strategy's model is adapted when it is first used, unless it is an :class:`SDLoRAModel` already. Its optimizer
    has one parameter group, or three named "directions", "magnitudes" and "head".

    Args:
        config: What is adapted and how; the default config, or that of the strategy's ``SDLoRAModel``.
        autocast: Precision of the forward pass, e.g. ``torch.bfloat16``; None: as the model is.
        reset_optimizer_state: A fresh optimizer state for every experience, as published. With ``False`` the
            state of the parameters that stay (magnitudes, head) is kept.
    """

    def __init__(
        self,
        config: SDLoRAConfig | None = None,
        autocast: torch.dtype | None = None,
        reset_optimizer_state: bool = True,
    ) -> None:
        super().__init__()
        if config is not None and not isinstance(config, SDLoRAConfig):
            raise TypeError(f"config={config!r}: expected an SDLoRAConfig")
        if autocast not in (None, torch.bfloat16):  # float16 would need its loss scaled
            raise ValueError(f"autocast={autocast!r}: expected torch.bfloat16 or None")
        self.config = config
        self.autocast = autocast
        self.reset_optimizer_state = reset_optimizer_state
        #: Set while a run is resumed inside an experience, which then must not begin a second time.
        self.resuming = False
        self._checked = False
        self._guard: FiniteLossGuard | None = None

    # -- attaching to a strategy -----------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Adapts the model, the optimizer's ownership and the criterion, once.

        Raises:
            ValueError: Another plugin, the criterion or the strategy cannot work with this one.
        """
        adapted = isinstance(strategy.model, SDLoRAModel)
        check_strategy(strategy, strategy.model.config if adapted else self.config or SDLoRAConfig())
        self._attach(strategy)

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """The same, for an evaluation before any training; the criterion then sees all logits."""
        self._attach(strategy)
        strategy._criterion.eval()

    def _attach(self, strategy: Any) -> None:
        if not isinstance(strategy.model, SDLoRAModel):
            training = strategy.model.training
            strategy.model = SDLoRAModel(strategy.model, self.config).to(strategy.device).train(training)
        elif self.config is not None and self.config != strategy.model.config:
            raise ValueError(f"config={self.config}: the strategy's model was adapted with {strategy.model.config}")
        if self.autocast is not None:
            strategy.model.autocast = self.autocast
        if not isinstance(strategy._criterion, CurrentClassesLoss):
            strategy._criterion = CurrentClassesLoss(strategy._criterion)
        check_groups(strategy.optimizer)
        # Avalanche would put the frozen backbone into the optimizer, before this plugin has its say.
        strategy.make_optimizer = _leave_optimizer_alone

    # -- the boundary between experiences --------------------------------------------------------------------------

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes, normalises, opens a direction, grows the head, refills the optimizer."""
        if self.resuming:
            return
        model, experience = strategy.model, strategy.experience
        if not self._checked:
            stream.check_classes(experience)
            self._try(strategy)
        classes = stream.classes_by_task(experience)
        if not len(model.head.weight):
            model.head.multi_head = model.config.use_task_labels and stream.labels_restart(experience)
        head = model.closed_form
        if head is not None and head.follows:  # before the boundary, which may change the function
            head.remember(x for x, *_ in present_features(model, strategy, kwargs.get("num_workers", 0)))
        replaced = model.begin_experience(classes)
        groups = model.trainable_groups()
        fill_optimizer(strategy.optimizer, groups, replaced, self.reset_optimizer_state)
        strategy._criterion.begin_experience(set().union(*classes.values()), model.head.classes(), strategy.device)
        self._guard = FiniteLossGuard([p for group in groups.values() for p in group], stream.name(experience))

    def _try(self, strategy: Any) -> None:
        """Sends one sample through the model, so that what does not fit is known before anything has changed."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            sample = strategy.adapted_dataset.eval()[0][0]
            training = strategy.model.training
            try:
                strategy.model.eval().features(sample.unsqueeze(0).to(strategy.device))
            except Exception as error:
                raise ValueError(
                    f"the model cannot take inputs of shape {tuple(sample.shape)} from experience "
                    f"{stream.name(strategy.experience)}: {error}"
                ) from error
            finally:
                strategy.model.train(training)
        self._checked = True

    # -- resuming a run --------------------------------------------------------------------------------------------

    def last_good(self) -> list[Tensor]:
        """Inside an experience, the values that training would return to if the loss were not finite; else nothing."""
        return [] if self._guard is None else self._guard.good

    def take_over(self, strategy: Any, good: list[Tensor]) -> None:
        """Fills the optimizer after the model's state was loaded, at a moment when :meth:`last_good` gave ``good``."""
        if not int(strategy.model.experiences):
            return  # the optimizer still holds what it was made with
        groups = strategy.model.trainable_groups()
        fill_optimizer(strategy.optimizer, groups)
        parameters = [p for group in groups.values() for p in group]
        self._guard = FiniteLossGuard(parameters, stream.name(strategy.experience), good) if good else None

    # -- iterations ------------------------------------------------------------------------------------------------

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """The criterion sees the current classes only (a periodic evaluation may have changed that)."""
        strategy._criterion.train()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Stops at a loss that is not finite."""
        if self._guard is not None:
            clock = strategy.clock
            self._guard.observe(strategy.loss, clock.train_exp_epochs, clock.train_epoch_iterations)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """The same for devices that are not waited for within an epoch."""
        if self._guard is not None:
            # The clock, the last plugin, has not counted this epoch yet.
            self._guard.check(strategy.clock.train_exp_epochs)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Reduces the rank of what was learned; the optimizer follows; a closed-form head is solved."""
        if self._guard is not None:  # looks once more, should the last epoch have been stopped early
            self._guard.check(strategy.clock.train_exp_epochs)
            self._guard = None
        if strategy.model.end_experience():
            fill_optimizer(
                strategy.optimizer, strategy.model.trainable_groups(), reset_state=self.reset_optimizer_state
            )
        model = strategy.model
        if model.closed_form is not None:
            batches = present_features(model, strategy, kwargs.get("num_workers", 0))
            rows = ((x, model.head.rows_of(y, labels)) for x, y, labels in batches)
            model.closed_form.learn(rows, len(model.head.weight))


def _leave_optimizer_alone(**kwargs: Any) -> None:
    """Stands in for a strategy's ``make_optimizer``: the plugin fills the optimizer itself."""
