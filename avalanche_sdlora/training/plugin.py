"""SD-LoRA as an Avalanche plugin: what happens at which callback, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.utils import trigger_plugins
from torch import Tensor, nn

from avalanche_sdlora import processes, stream
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.learned import align_learned, learned_state
from avalanche_sdlora.model import SDLoRAModel
from avalanche_sdlora.training import boundary
from avalanche_sdlora.training.compatibility import check_strategy
from avalanche_sdlora.training.guard import FiniteGuard, RestorePoint
from avalanche_sdlora.training.held_out import held_out
from avalanche_sdlora.training.lesson import features_before, learn, look_again
from avalanche_sdlora.training.loss import CurrentClassesLoss
from avalanche_sdlora.training.optim import RestingRows, check_groups, fill_optimizer, holds_exactly
from avalanche_sdlora.training.path import Epochs, PathLimit, path_of
from avalanche_sdlora.training.precision import Precision, autocast_dtype, check_precision
from avalanche_sdlora.training.randomness import random_state, set_random_state
from avalanche_sdlora.training.rotations import Rotations, can_rotate
from avalanche_sdlora.training.shared_work import SharedWork, check_shared

logger = logging.getLogger("avalanche_sdlora")


class SDLoRAPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Makes a supervised Avalanche strategy learn with SD-LoRA (Wu et al., ICLR 2025, arXiv 2501.13198).

    Before each training experience it freezes and normalises the directions learned so far, opens a new one if a new
    task begins, grows the head, and fills the optimizer with exactly the parameters that train now. After it, ranks are
    reduced as the config says, and a head in closed form learns from one pass over the images of
    ``strategy.adapted_dataset`` in their evaluation transform. Evaluation changes nothing. An experience that fails,
    because the loss is not finite for instance, leaves model and optimizer as they were before it.

    A plugin that has a method ``on_direction_end(strategy)`` is called when an experience's training is over,
    before ranks are reduced and a head in closed form learns: whatever changes the new direction must do so there.

    Give it first in the strategy's list, so that other plugins see the model of the current experience::

        strategy = Naive(model=vit, optimizer=SGD(vit.parameters(), lr=0.01), plugins=[SDLoRAPlugin(), ...])

    The strategy's model is adapted when it is first used, unless it is an :class:`SDLoRAModel` already. Its optimizer
    has one parameter group, or three named "directions", "magnitudes" and "head".

    Args:
        config: Settings of the method; None: those of the strategy's ``SDLoRAModel``, or the defaults.
        precision: Precision of the forward pass: "float32", "bfloat16" or "auto"
            (:func:`avalanche_sdlora.training.precision.autocast_dtype`); None: as the model is.
        reset_optimizer_state: A fresh optimizer state for every task, as published. With ``False`` the state of the
            parameters that stay (magnitudes, head) is kept.
        check_stream: Refuse a stream whose split seems to have lost classes by mistake
            (:func:`avalanche_sdlora.stream.check_classes`).
        classifier: Name of the classifier in the strategy's model, or several; None: it is found.
    """

    def __init__(
        self,
        config: SDLoRAConfig | None = None,
        precision: Precision | None = None,
        reset_optimizer_state: bool = True,
        check_stream: bool = True,
        classifier: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if config is not None and not isinstance(config, SDLoRAConfig):
            raise TypeError(f"config={config!r}: expected an SDLoRAConfig")
        if precision is not None:
            check_precision(precision)
        self.config = config
        self.precision = precision
        self.classifier = classifier
        self.reset_optimizer_state = reset_optimizer_state
        self.check_stream = check_stream
        self._checked = False
        self._told = False  # to begin a new task
        self._resumes = False  # inside an experience, which then does not begin a second time
        self._warn = boundary.WarnOnce()
        self._task: stream.Task | None = None  # at the present experience, or the last
        self._before: stream.Task | None = None  # at the one before it
        self._stage: tuple[int, float] | None = None  # at which the model was left
        self._loads = 0  # states that the model had loaded when the optimizer was last looked at
        self._guard: FiniteGuard | None = None
        self._point: RestorePoint | None = None
        self._resting: RestingRows | None = None
        self._path: PathLimit | None = None
        self._epochs = Epochs()
        self._rotations: Rotations | None = None  # while the first task learns to tell them
        self._data: Any = None  # what the experience brings, of which some images may be held out from training
        self._held: Tensor | None = None  # (n,), which
        self._trained: Any = None  # the others, which are trained on
        self._trains = False  # inside a call of the strategy's train()
        self._outside: dict[str, Any] = {}  # what an evaluation inside training must leave as it was

    def begin_task(self) -> None:
        """Lets the next experience begin a new task with a direction of its own, whichever classes it brings."""
        self._told = True

    # -- attaching to a strategy -----------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Attaches the plugin, if that has not been done."""
        self.attach(strategy)
        self._trains = True

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Note that an evaluation from now on is not a periodic one inside training."""
        self._trains = False
        self._epochs.give_back(strategy)

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Attaches the plugin for an evaluation before any training, too; the criterion then sees all logits."""
        self.attach(strategy)
        self._outside = {"training": strategy._criterion.training}
        for experience in strategy.current_eval_stream:  # of all, before the first: the loss of a class not seen yet
            strategy.model.adaptation(experience)
        if self._trains:
            self._outside["random"] = random_state()
        strategy._criterion.eval()

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """After a periodic evaluation, let training go on with its criterion and random numbers."""
        strategy._criterion.train(self._outside["training"])
        if "random" in self._outside:
            set_random_state(self._outside["random"])

    def attach(self, strategy: Any) -> None:
        """Adapts the model, takes over the optimizer, and wraps the criterion of a strategy, once.

        Raises:
            ValueError: Another plugin, the criterion, the optimizer or the strategy cannot work with this one.
            RuntimeError: The processes that train together do not have the same model.
        """
        processes.start()
        check_shared(strategy)
        adapted = isinstance(strategy.model, SDLoRAModel)
        check_strategy(strategy, strategy.model.config if adapted else self.config or SDLoRAConfig())
        twins = [plugin for plugin in strategy.plugins if isinstance(plugin, SDLoRAPlugin)]
        if len(twins) > 1:
            raise ValueError(
                f"plugins: {len(twins)} SDLoRAPlugins; a strategy takes one, and SDLoRAStrategy has its own already"
            )
        if not adapted:
            training = strategy.model.training
            strategy.model = (
                SDLoRAModel(strategy.model, self.config, classifier=self.classifier).to(strategy.device).train(training)
            )
        elif self.config is not None and self.config != strategy.model.config:
            raise ValueError(f"config={self.config}: the strategy's model was adapted with {strategy.model.config}")
        if self.precision is not None:
            strategy.model.autocast = autocast_dtype(self.precision, strategy.device)
        if not isinstance(strategy._criterion, CurrentClassesLoss):
            strategy._criterion = CurrentClassesLoss(strategy._criterion).to(strategy.device)
        check_groups(strategy.optimizer)
        # Avalanche would put the frozen backbone into the optimizer, before this plugin fills it.
        strategy.make_optimizer = _leave_optimizer_alone
        if processes.several() and not any(isinstance(plugin, SharedWork) for plugin in strategy.plugins):
            SharedWork.join(strategy)

    # -- the boundary between experiences --------------------------------------------------------------------------

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Holds out images to judge by; whatever trains after this sees the others."""
        self._data, self._held, config = strategy.adapted_dataset, None, strategy.model.config
        targets = getattr(self._data, "targets", None)
        held = None
        if config.head != "linear" and config.held_out and targets is not None:
            stream.classes_by_task(strategy.experience, self._data)  # refuses what are no labels
            held = held_out(targets, config.held_out)
        if held is not None and held.any():
            self._held = held
            strategy.adapted_dataset = self._data.subset((~held).nonzero().flatten().tolist())
        self._trained = strategy.adapted_dataset

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Freezes, normalises, opens a direction, grows the head, refills the optimizer."""
        if strategy.adapted_dataset is not self._trained:  # a plugin has put others in their place since
            self._data, self._held = strategy.adapted_dataset, None
        self._epochs.give_back(strategy)
        self._path = None  # of an experience that was left before its end, another one may follow
        if self._resumes:
            self._epochs.plan(strategy, begun=True)
            return
        classes = stream.classes_by_task(strategy.experience, self._data)
        if not self._checked:
            if self.check_stream:
                stream.check_classes(strategy.experience)
            boundary.check_inputs(strategy)
            self._checked = True
        boundary.warn_of_single_class(strategy.model.config.head, strategy.experience, classes, self._warn)
        model, keep_state = strategy.model, not self.reset_optimizer_state
        if self._stage != _stage(model):  # another state has been loaded since: of that nothing is known
            self._task = self._point = None
        interrupted = self._is_interrupted(strategy.experience)
        if not interrupted:
            self._point = RestorePoint(model, strategy._criterion, strategy.optimizer, keep_state)
            self._before = self._task
        self._epochs.plan(strategy, begun=interrupted)
        try:
            self._begin(strategy, classes, kwargs.get("num_workers", 0), interrupted)
        except BaseException:  # half a beginning cannot be gone on with
            self._go_back(strategy)
            raise
        self._stage = _stage(model)

    def _is_interrupted(self, experience: Any) -> bool:
        """Whether ``experience`` has begun, and was left before its end by an error of somebody else or by a key."""
        if self._point is None or self._task is None:
            return False
        again = self._task.is_at(experience) and not self._told
        logger.warning(
            "experience %s was interrupted before its end%s",
            self._task.name,
            ": its training goes on from where it was"
            if again
            else ", and another one begins: what it taught stays, but a head in closed form does not know it",
        )
        return again

    def _begin(self, strategy: Any, classes: Mapping[int, set[int]], num_workers: int, interrupted: bool) -> None:
        model, experience = strategy.model, strategy.experience
        model.head.multi_head = boundary.needs_several_heads(model, experience, classes, self._warn)
        task, goes_on = boundary.next_task(model.config.new_task, self._task, self._told, experience, classes)
        head = model.closed_form
        if interrupted and self._task is not None:  # features were remembered when it began
            task, goes_on = self._task, True
        elif head is not None:
            head.abandon()  # what an interrupted experience may have left
            may_go_back = self._may_go_back(model)
            if head.follows or task.repeats or may_go_back:
                # Before the boundary, which may change the function.
                looks = (
                    head.second_look.doubts and may_go_back and not (goes_on or task.repeats or model.trains_backbone)
                )
                head.remember((look_again if looks else features_before)(strategy, self._data, num_workers))
        self._task, self._told = task, False
        replaced = model.begin_experience(classes, goes_on)
        if not interrupted:
            self._rotations = self._second_task(strategy)
        reset = self.reset_optimizer_state and not goes_on
        fill_optimizer(strategy.optimizer, self._groups(model), replaced, reset)
        if self._point is not None and self._may_go_back(model) and not interrupted:
            self._point.keep_begun(model)
        strategy._criterion.train()
        strategy._criterion.begin_experience(set().union(*task.classes.values()), model.head.classes(), strategy.device)
        self._watch(strategy)

    def _second_task(self, strategy: Any) -> Rotations | None:
        """What the experience that has begun learns beside its classes, if it is the first and brings images."""
        model, experience = strategy.model, strategy.experience
        wanted = model.config.rotations and int(model.experiences) == 1 and not stream.is_part(experience)
        return Rotations(model) if wanted and can_rotate(boundary.sample_of(strategy)) else None

    def _groups(self, model: SDLoRAModel) -> dict[str, list[nn.Parameter]]:
        """The parameters that train now, by role."""
        groups = model.trainable_groups()
        if self._rotations is not None:
            groups["head"] += self._rotations.parameters()
        return groups

    def _may_go_back(self, model: SDLoRAModel) -> bool:
        """Whether the experience may turn out to have harmed the features; a boundary that jumps cannot be undone."""
        return self._held is not None and model.closed_form is not None and model.config.boundary == "continuous"

    def _watch(self, strategy: Any) -> None:
        model = strategy.model
        self._guard = FiniteGuard(stream.name(strategy.experience), strategy.device)
        classes = {} if self._task is None else self._task.classes
        self._resting = RestingRows([model.head.weight, model.head.bias], model.head.rows(classes))

    def _go_back(self, strategy: Any) -> None:
        """Undoes the present experience."""
        if self._point is not None:
            self._point.restore(strategy.model, strategy._criterion, strategy.optimizer)
        self._point = self._guard = self._resting = self._path = self._rotations = None
        self._task, self._stage = self._before, _stage(strategy.model)
        self._epochs.give_back(strategy)

    # -- resuming a run --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The place of training in the stream as numbers, texts and tensors; :meth:`take_over` takes it back."""
        point, tasks = self._point, {"task": self._task, "before": self._before}
        return {
            "told": self._told,
            "inside": None if point is None else point.state(),
            "rotations": None if self._rotations is None else self._rotations.state(),
            **{name: None if task is None else task.state() for name, task in tasks.items()},
        }

    def resume_inside(self) -> None:
        """Let the next call of ``train`` continue an experience instead of beginning it a second time."""
        self._resumes = True

    def take_over(self, strategy: Any, state: Mapping[str, Any]) -> None:
        """Fills the optimizer and goes on watching, after the model's state was loaded.

        Args:
            strategy: The strategy.
            state: The state that :meth:`state` gave at that moment.
        """
        self._told = state["told"]
        self._task, self._before = (
            None if state[name] is None else stream.Task.from_state(state[name]) for name in ("task", "before")
        )
        self._point = None if state["inside"] is None else RestorePoint.from_state(state["inside"])
        self._rotations = None
        if state["rotations"] is not None:
            self._rotations = Rotations(strategy.model)
            self._rotations.take_over(state["rotations"])
        if int(strategy.model.experiences):  # else the optimizer still holds the parameters that it was made with
            fill_optimizer(strategy.optimizer, self._groups(strategy.model))
        if self._point is not None and self._resumes and strategy.experience is not None:
            self._watch(strategy)
            self._resumes = False
        self._stage = _stage(strategy.model)

    # -- iterations ------------------------------------------------------------------------------------------------

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Let the optimizer follow a model whose parameters have been replaced, frozen or unfrozen.

        Raises:
            ValueError: A state has been loaded that does not know the classes of the present experience.
        """
        self._loads = strategy.model.loads
        self._check_classes(strategy)
        groups = self._groups(strategy.model)
        if not holds_exactly(strategy.optimizer, groups):
            fill_optimizer(strategy.optimizer, groups, reset_state=False)
            self._watch(strategy)
        if self._path is None:
            self._path = self._limit(strategy)

    def _check_classes(self, strategy: Any) -> None:
        known, classes = strategy.model.head.classes_by_task(), {} if self._task is None else self._task.classes
        missing = sorted({c for task, labels in classes.items() for c in labels - known.get(task, set())})
        if missing:
            raise ValueError(
                f"the model does not know the classes {missing} of experience {stream.name(strategy.experience)} any "
                "more: a state of another stage has been loaded while it was trained; load it between two experiences"
            )

    def _limit(self, strategy: Any) -> PathLimit | None:
        """How far the present experience may take the weights; the parts of an online stream share what a task has."""
        model, experience = strategy.model, strategy.experience
        path = model.config.path if int(model.experiences) == 1 else model.config.later_path
        if path is None:
            return None
        batches = len(strategy.dataloader) if hasattr(strategy.dataloader, "__len__") else 1
        path = path_of(path, len(strategy.adapted_dataset), stream.parts(experience))
        beside = [] if self._rotations is None else [self._rotations.head]
        return PathLimit(model, path, batches * self._epochs.planned, beside)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Let the criterion see the current classes only, which an evaluation that failed may have changed."""
        strategy._criterion.train()

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Look at a state that has been loaded in the meantime before the loss, which would not find its classes."""
        if self._loads != strategy.model.loads:
            self._check_classes(strategy)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Raises if the loss is not finite (see ``FiniteGuard``); adds the gradient of what is learned beside it."""
        if not processes.several():
            self._look(strategy)
        if self._rotations is not None:
            self._rotations.backward(strategy)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Raises in every one of several processes if the loss of the whole batch, known by now, is not finite."""
        if processes.several():
            self._look(strategy)

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Remember the rows of the head that learn nothing, and where the step begins; a state loaded is followed."""
        if self._loads != strategy.model.loads:
            self.before_training_epoch(strategy)
        if self._path is not None:
            self._path.before_step()
        if self._resting is not None:
            self._resting.before_step()

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Rows of the head that learn nothing are where they were, and the step is finite and as long as it may be."""
        if self._resting is not None:
            self._resting.after_step()  # first: what it takes back is no part of the step that is measured
        if self._path is not None:
            finite = self._path.after_step(strategy.clock.train_exp_iterations)
            self._check(strategy, finite, strategy.clock.train_exp_epochs, strategy.clock.train_epoch_iterations)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Metrics of training see the classes that the loss saw: an old row that did not compete wins nothing."""
        output, targets = strategy.mb_output, strategy.mb_y
        if isinstance(output, Tensor) and output.dim() == 2 and len(output) == len(targets):
            strategy.mb_output = strategy._criterion.compete(output, targets)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Raises if a loss of the epoch was not finite: on a GPU, looking at each loss would make every step wait."""
        # The clock, the last plugin, has not counted this epoch yet. Some strategies (MER) skip ``before_backward``.
        clock = strategy.clock
        self._check(strategy, _finite(strategy.loss), clock.train_exp_epochs, clock.train_epoch_iterations - 1)
        self._check(strategy, None, clock.train_exp_epochs)

    def _look(self, strategy: Any) -> None:
        clock = strategy.clock
        self._check(strategy, _finite(strategy.loss), clock.train_exp_epochs, clock.train_epoch_iterations)

    def _check(self, strategy: Any, finite: Tensor | None, epoch: int, iteration: int = 0) -> None:
        if self._guard is None:
            return
        try:
            if finite is None:
                self._guard.check(epoch)
            else:
                self._guard.observe(finite, epoch, iteration)
        except FloatingPointError:
            self._go_back(strategy)
            raise

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Reduces the rank of the new directions, lets the optimizer follow, and solves a closed-form head."""
        clock = strategy.clock
        self._check(strategy, None, clock.train_exp_epochs)  # should the last epoch have been stopped early
        learned = [p for group in self._groups(strategy.model).values() for p in group]
        if learned:  # after the last step there is no loss that would tell
            finite = torch.stack([torch.isfinite(p.detach()).all() for p in learned]).all()
            self._check(strategy, finite, clock.train_exp_epochs - 1, clock.train_epoch_iterations - 1)
            self._check(strategy, None, clock.train_exp_epochs - 1)
        try:
            self._end(strategy, kwargs.get("num_workers", 0))
        except Exception:
            self._go_back(strategy)
            raise
        self._point = self._guard = self._resting = self._path = None
        self._stage = _stage(strategy.model)

    def _end(self, strategy: Any, num_workers: int) -> None:
        model = strategy.model
        trained = model.count_trainable()
        if self._rotations is not None:
            trained += sum(p.numel() for p in self._rotations.parameters())
            self._rotations = None
        trigger_plugins(strategy, "on_direction_end")
        changed = align_learned(model, model.end_experience(trained))
        if model.closed_form is not None and not learn(
            strategy, self._data, self._held, self._task, self._may_go_back(model), num_workers
        ):
            self._point.begin_again(model)  # type: ignore[union-attr]
            align_learned(model, model.end_experience(trained))
            changed = True
        groups = model.trainable_groups()
        if changed or not holds_exactly(strategy.optimizer, groups):
            fill_optimizer(strategy.optimizer, groups, reset_state=self.reset_optimizer_state)
        processes.check_alike(learned_state(model), f"after experience {stream.name(strategy.experience)}")


def _finite(loss: Tensor) -> Tensor:
    return torch.isfinite(loss.detach()).all()


def _stage(model: SDLoRAModel) -> tuple[int, float]:
    """How far a model is along a stream: the tasks it has begun, and the samples that a head in closed form counts."""
    head = model.closed_form
    return int(model.experiences), 0.0 if head is None else float(head.statistics.counts.sum())


def _leave_optimizer_alone(**kwargs: Any) -> None:
    """Stands in for a strategy's ``make_optimizer``: the plugin fills the optimizer itself."""
