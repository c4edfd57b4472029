"""Which of Avalanche's plugins, strategies and criteria cannot work beside SD-LoRA's plugin, why, and what to use.

``docs/guide/avalanche.md`` shows this table beside everything that works; a test runs every entry of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import avalanche.training
import avalanche.training.plugins
import avalanche.training.templates
from avalanche.training.plugins import LRSchedulerPlugin
from avalanche.training.templates.update_type import SGDUpdate
from torch import nn

from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.model import SDLoRAModel


def _always(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    return True


@dataclass(frozen=True)
class Refusal:
    """One plugin, strategy or criterion of Avalanche that is refused.

    Attributes:
        name: Its name in ``avalanche.training``, its ``plugins`` or its ``templates``; subclasses are refused with it.
        why: Goes on after "cannot work with SDLoRAPlugin: ".
        instead: Goes on after "Use ".
        condition: When it is refused, in words; empty if always.
        when: The condition as a function of the object, the config, and the strategy's model.
    """

    name: str
    why: str
    instead: str
    condition: str = ""
    when: Callable[[Any, SDLoRAConfig, nn.Module], bool] = _always

    def applies(self, thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
        """Whether ``thing`` is refused with ``config``; never where this version of Avalanche does not have it."""
        kind = _find(self.name)
        return kind is not None and isinstance(thing, kind) and self.when(thing, config, model)


def check_strategy(strategy: Any, config: SDLoRAConfig) -> None:
    """Refuses plugins, a criterion, or a strategy itself that cannot work with SD-LoRA's plugin.

    Nothing is changed. Only Avalanche's own classes and their subclasses are known here.

    Args:
        strategy: An Avalanche strategy, before it trains.
        config: That of its model, or that with which its model will be adapted.

    Raises:
        ValueError: The message names the refused object, says why, and what to use instead.
    """
    model: Any = getattr(strategy, "model", None)
    criterion = getattr(strategy, "_criterion", None)
    inner = getattr(criterion, "criterion", None)  # where the criterion is wrapped already
    for thing in (strategy, *strategy.plugins, criterion, inner):
        for refusal in REFUSALS:
            if refusal.applies(thing, config, model):
                condition = f" with {refusal.condition}" if refusal.condition else ""
                raise ValueError(
                    f"{type(thing).__name__} cannot work with SDLoRAPlugin{condition}: {refusal.why}. "
                    f"Use {refusal.instead}"
                )


#: What of Avalanche's own may take part where several processes train one model; tests run each of them.
SHARED_BY_PROCESSES = frozenset(
    {"Clock", "EvaluationPlugin", "EWCPlugin", "LRSchedulerPlugin", "PeriodicEval", "ReplayPlugin"}
    | {"BasePlugin", "BaseSGDPlugin", "SupervisedPlugin", "PluginMetric"}
    | {"BaseSGDTemplate", "SupervisedTemplate", "Naive", "Cumulative", "EWC", "Replay"}
)


def check_processes(strategy: Any) -> None:
    """Refuses what is not known to work where several processes train one model.

    Classes of a script's own count by the class of Avalanche that they are derived from; plugins of this package say in
    Avalanche's ``supports_distributed`` whether they can.

    Raises:
        ValueError: The message names the plugin or the strategy.
    """
    for thing in (strategy, *strategy.plugins):
        own = next((kind for kind in type(thing).__mro__ if kind.__module__.startswith("avalanche.")), None)
        ours = next((kind for kind in type(thing).__mro__ if kind.__module__.startswith("avalanche_sdlora.")), None)
        alone = ours is not None and not getattr(ours, "supports_distributed", True)
        if alone or (own is not None and own.__name__ not in SHARED_BY_PROCESSES):
            raise ValueError(
                f"{type(thing).__name__} cannot train in several processes: it has not been made to see its part of "
                "each batch. Start the script without torchrun, in one process"
            )
        if isinstance(thing, LRSchedulerPlugin) and thing.metric == "train_loss":
            raise ValueError(
                "LRSchedulerPlugin(metric='train_loss') cannot train in several processes, since it weighs the losses "
                "by the images of each process; use metric='val_loss', or no metric"
            )
    if type(strategy).training_epoch is not SGDUpdate.training_epoch:
        raise ValueError(
            f"{type(strategy).__name__} cannot train in several processes: it has a training loop of its own. Start "
            "the script without torchrun, in one process"
        )


def _find(name: str) -> type | None:
    places = (avalanche.training.plugins, avalanche.training, avalanche.training.templates)
    kinds = (getattr(place, name, None) for place in places)
    return next((kind for kind in kinds if isinstance(kind, type)), None)


def _changes_directions(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    return bool(config.target_patterns) and config.directions != "single"


def _updates_copies(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    """MER is made from the template of meta-learning, but takes the optimizer's own steps."""
    return not isinstance(thing, avalanche.training.MER)


def _closed_form(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    return config.head != "linear"


def _no_quadprog(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    return importlib.util.find_spec("quadprog") is None


def _no_generator(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    return thing.generator_strategy is None


def _masks_seen(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    return bool(thing.mask != "new")


def _last_linear_trains(thing: Any, config: SDLoRAConfig, model: nn.Module) -> bool:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return isinstance(model, SDLoRAModel) and bool(linear) and linear[-1].weight.requires_grad


_ANCHORS = tuple(
    Refusal(
        name,
        "it remembers parameters by their names, and from task to task another direction lies under each name, so that "
        "it would hold new random factors where other ones were",
        'SDLoRAConfig(directions="single"), where one direction learns all tasks; or OLoRAPlugin or InfLoRAPlugin of '
        "avalanche_sdlora.methods",
        'directions="every" or "first"',
        _changes_directions,
    )
    for name in ("EWCPlugin", "MASPlugin", "SynapticIntelligencePlugin")
)

_PROTOTYPES = tuple(
    Refusal(
        name.format(kind),
        "it fills a classifier that replaces the model's own, and SDLoRAModel has none to replace",
        f'SDLoRAConfig(head="{head}"), which is learned from one pass over each experience',
    )
    for kind, head in (("NCM", "ncm"), ("FeCAM", "lda"))
    for name in ("CurrentData{}Update", "Memory{}Update", "{}Oracle")
)

_OWN_MODELS = tuple(
    Refusal(name, f"it trains {model}, which SDLoRAPlugin cannot adapt", instead)
    for name, model, instead in (
        ("AETraining", "an autoencoder", "a strategy of its own for the autoencoder"),
        ("VAETraining", "a variational autoencoder", "a strategy of its own for the autoencoder"),
        ("AR1", "its own MobileNet", "Replay or SynapticIntelligence"),
        ("ExpertGateStrategy", "a network of its own for every task", "SDLoRAStrategy alone"),
        ("ICaRL", "a model of three parts of its own", 'Replay with SDLoRAConfig(head="ncm")'),
        ("LearningToPrompt", "prompts of a transformer of its own", "SDLoRAStrategy alone"),
        ("PNNStrategy", "a network that grows a column for every task", "SDLoRAStrategy alone"),
        ("PackNet", "masks of a wrapped model", "SDLoRAStrategy alone"),
        ("SCR", "an encoder with a projection of its own", 'Replay with SDLoRAConfig(head="ncm")'),
        ("FeatureReplay", "two parts of a model that it takes apart", "Replay"),
    )
)

#: The refused classes; any other class of Avalanche is let through.
REFUSALS: tuple[Refusal, ...] = (
    *_ANCHORS,
    *_PROTOTYPES,
    *_OWN_MODELS,
    Refusal(
        "EWCPlugin",
        "it measures what matters in evaluation mode, where the closed-form head predicts and not the one that trains",
        'head="linear"; or MASPlugin or SynapticIntelligencePlugin, which look at the head that trains',
        "a head in closed form",
        _closed_form,
    ),
    Refusal(
        "RWalkPlugin",
        "it remembers parameters as they were before the first experience, when those of SDLoRAModel are empty yet",
        'MASPlugin or SynapticIntelligencePlugin, with SDLoRAConfig(directions="single")',
    ),
    Refusal(
        "LFLPlugin",
        "after the first experience it freezes the last nn.Linear, which is one of the backbone",
        "LwFPlugin of avalanche_sdlora.methods",
        "an unfrozen backbone",
        _last_linear_trains,
    ),
    Refusal(
        "LwFPlugin",
        "it asks a model that takes task labels for the logits of every task, as a dictionary",
        "LwFPlugin of avalanche_sdlora.methods, which computes the same loss",
    ),
    Refusal(
        "FeatureDistillationPlugin",
        "it puts the model's last features in place of its method features()",
        "LFLPlugin, or LwFPlugin of avalanche_sdlora.methods",
    ),
    Refusal(
        "CWRStarPlugin",
        "it sets rows of the last nn.Linear by class label and freezes everything else after the first experience",
        "SDLoRAConfig() with its head in closed form, and directions='first' where nothing is to adapt after it",
    ),
    Refusal(
        "CoPEPlugin",
        "it replaces the last nn.Linear and the criterion by prototypes of its own",
        'SDLoRAConfig(head="ncm"), with ReplayPlugin if samples may be kept',
    ),
    Refusal(
        "BiCPlugin",
        "it takes no model that knows of task labels, and gives a scheduler an argument that torch no longer has",
        "SDLoRAConfig(head=...) with a head in closed form, whose classes need no correction",
    ),
    Refusal(
        "MIRPlugin",
        "it differentiates by every parameter of the model, and those of the backbone are frozen",
        "ReplayPlugin",
    ),
    Refusal("RARPlugin", "it traces the model with torch.fx, which cannot follow SDLoRAModel", "ReplayPlugin"),
    Refusal(
        "FromScratchTrainingPlugin",
        "it puts parameters back that an experience has replaced, and all of them into the optimizer",
        "GDumbPlugin, or a new strategy for every experience",
    ),
    Refusal(
        "GenerativeReplayPlugin",
        "without a strategy for its generator it takes the model for one",
        "GenerativeReplayPlugin(generator_strategy=...)",
        "generator_strategy=None",
        _no_generator,
    ),
    Refusal(
        "GEMPlugin",
        "it solves quadratic programmes with that package",
        "AGEMPlugin, which needs no solver, or pip install quadprog",
        "quadprog not installed",
        _no_quadprog,
    ),
    Refusal(
        "StreamingLDA",
        "it trains nothing and has no optimizer",
        'SDLoRAConfig(head="lda"), the same classifier on features that are adapted',
    ),
    Refusal(
        "SupervisedMetaLearningTemplate",
        "its inner updates, as those of LaMAML, change copies of the model and bypass the optimizer and the criterion",
        "Replay or AGEM",
        when=_updates_copies,
    ),
    Refusal(
        "DER",
        "it replays logits as they were, and those of classes that came later are -1000 in them",
        "Replay, or LwFPlugin of avalanche_sdlora.methods",
    ),
    Refusal(
        "MaskedCrossEntropy",
        "SDLoRAPlugin masks the classes that do not compete, and this loss is NaN where it counts them in",
        "torch.nn.CrossEntropyLoss(), which is then computed over the present classes",
        'mask="seen", "old" or "all"',
        _masks_seen,
    ),
    Refusal(
        "ICaRLLossPlugin",
        "it teaches old classes in every batch, and SDLoRAPlugin lets the present ones alone compete",
        "LwFPlugin of avalanche_sdlora.methods",
    ),
    Refusal(
        "SCRLoss",
        "it compares features of two views, and SDLoRAPlugin gives a criterion logits",
        "torch.nn.CrossEntropyLoss()",
    ),
    Refusal(
        "PPPloss",
        "it compares features with prototypes, and SDLoRAPlugin gives a criterion logits",
        'torch.nn.CrossEntropyLoss(), and SDLoRAConfig(head="ncm")',
    ),
)
