"""Every plugin, strategy and criterion that Avalanche exports, and how a test makes a strategy of it.

What is refused is in ``avalanche_sdlora.training.compatibility``. A name that neither list has fails a test.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import avalanche.training as strategies
import avalanche.training.plugins as plugins
import avalanche.training.templates as templates

from tests.library import avalanche_strategies as make
from tests.library.avalanche_strategies import bare, beside, template

#: Exported beside them, and nothing that a strategy is made of or trained with.
NOT_PLUGINS = (
    strategies.RegularizationMethod,
    strategies.ExemplarsBuffer,
    strategies.ExemplarsSelectionStrategy,
)

#: Templates without a training loop.
ABSTRACT = (templates.BaseTemplate, templates.BaseSGDTemplate)


def exported() -> dict[str, Any]:
    """By name; functions that make a strategy, as the deprecated ``OnlineNaive`` is one, count."""
    found = {}
    for module in (plugins, strategies, templates):
        for name, thing in vars(module).items():
            makes = callable(thing) and "optimizer" in inspect.signature(thing).parameters
            if thing in ABSTRACT:
                continue
            if makes or (inspect.isclass(thing) and not issubclass(thing, NOT_PLUGINS)):
                found[name] = thing
    return found


@dataclass(frozen=True)
class Entry:
    """How a strategy is made; ``remark`` is what a user should know, ``labels`` whether streams need task labels."""

    make: Any
    remark: str = ""
    labels: bool = False


def _pairs(name: str, remark: str = "", labels: bool = False, **settings: Any) -> dict[str, Entry]:
    """The strategy ``name``, where there is one, and the plugin that it is made of, with the same settings."""
    made = {
        f"{name}Plugin": Entry(partial(beside, partial(getattr(plugins, f"{name}Plugin"), **settings)), remark, labels)
    }
    if hasattr(strategies, name):
        # Two strategies call what their plugins call patterns_per_experience patterns_per_exp.
        own = {key.replace("patterns_per_experience", "patterns_per_exp"): value for key, value in settings.items()}
        made[name] = Entry(partial(template, getattr(strategies, name), **own), remark, labels)
    return made


ANCHORED = 'with `directions="single"`, or without adapters (`targets=()`)'

GENERATOR = (
    "with a strategy of its own for the generator; the model that labels what is generated has rows for the new "
    "classes already, as every model that grows"
)

_UPDATES = (
    "CurrentDataNCMUpdate",
    "MemoryNCMUpdate",
    "NCMOracle",
    "CurrentDataFeCAMUpdate",
    "MemoryFeCAMUpdate",
    "FeCAMOracle",
)
_NEVER_MADE = ("AR1", "ExpertGateStrategy", "ICaRL", "LearningToPrompt", "PNNStrategy", "PackNet", "SCR")

#: What works, at least with ``directions="single"`` and the linear head.
WORKS: dict[str, Entry] = {
    "SupervisedPlugin": Entry(partial(beside, plugins.SupervisedPlugin)),
    "EvaluationPlugin": Entry(make.with_evaluation),
    "EarlyStoppingPlugin": Entry(make.with_early_stopping, "needs `eval_every=1`, as on every model"),
    "LRSchedulerPlugin": Entry(make.with_scheduler, "make the scheduler of `strategy.optimizer`"),
    "Naive": Entry(partial(template, strategies.Naive)),
    "SupervisedTemplate": Entry(partial(template, templates.SupervisedTemplate), "`SDLoRAStrategy` is made of it"),
    "OnlineNaive": Entry(make.online_naive),
    "JointTraining": Entry(partial(template, strategies.JointTraining)),
    "Cumulative": Entry(partial(template, strategies.Cumulative)),
    **_pairs(
        "Replay",
        'exemplars may be chosen by features: `HerdingSelectionStrategy(model, "backbone")` of an `SDLoRAModel`',
        mem_size=40,
    ),
    **_pairs(
        "GDumb",
        "every experience begins with the model as it was at first; `strategy.model` is another object each time",
        mem_size=60,
    ),
    **_pairs(
        "GSS_greedy",
        "a memory larger than a batch with replay, and no larger than the first experience",
        labels=True,
        mem_size=100,
        mem_strength=2,
        input_size=[8],
    ),
    **_pairs("AGEM", patterns_per_experience=20, sample_size=10),
    **_pairs("GEM", "with the package `quadprog`", patterns_per_experience=20, memory_strength=0.5),
    **_pairs("EWC", ANCHORED, ewc_lambda=1.0),
    **_pairs("MAS", ANCHORED, lambda_reg=1.0),
    **_pairs("SynapticIntelligence", ANCHORED, si_lambda=1.0),
    **_pairs("LFL", "keeps a copy of the whole model; the rows of the head go on training", lambda_e=1.0),
    "GenerativeReplayPlugin": Entry(make.generative_replay_plugin, GENERATOR, labels=True),
    "GenerativeReplay": Entry(make.generative_replay, GENERATOR, labels=True),
    "TrainGeneratorAfterExpPlugin": Entry(
        partial(beside, plugins.TrainGeneratorAfterExpPlugin), "beside `GenerativeReplayPlugin`"
    ),
    "ER_ACE": Entry(partial(template, strategies.ER_ACE, mem_size=40), labels=True),
    "ER_AML": Entry(
        make.er_aml,
        "`feature_extractor=model.features` of an `SDLoRAModel`; never ends where a class has fewer samples in memory "
        "than a batch, as on every model",
        labels=True,
    ),
    "MER": Entry(make.mer, "a step for every sample: take a smaller learning rate", labels=True),
    "MaskedCrossEntropy": Entry(make.masked, 'with `mask="new"`, which masks what `SDLoRAPlugin` masks already'),
}


#: What is refused, whatever the config.
REFUSED: dict[str, Any] = {
    **{f"{name}Plugin": partial(beside, getattr(plugins, f"{name}Plugin")) for name in ("LwF", "FeatureDistillation")},
    **{name: partial(beside, getattr(plugins, name)) for name in _UPDATES},
    "LwF": partial(template, strategies.LwF, alpha=1.0, temperature=2.0),
    "CWRStarPlugin": make.cwr_star,
    "CWRStar": partial(template, strategies.CWRStar, cwr_layer_name="4"),
    "CoPEPlugin": partial(beside, partial(plugins.CoPEPlugin, p_size=16)),
    "CoPE": partial(template, strategies.CoPE, p_size=16),
    "BiCPlugin": partial(beside, plugins.BiCPlugin),
    "BiC": partial(template, strategies.BiC),
    "MIRPlugin": partial(beside, partial(plugins.MIRPlugin, 10)),
    "MIR": partial(template, strategies.MIR, batch_size_mem=10, mem_size=40, subsample=20),
    "RWalkPlugin": partial(beside, plugins.RWalkPlugin),
    "RARPlugin": partial(beside, partial(plugins.RARPlugin, 10)),
    "FromScratchTrainingPlugin": partial(beside, plugins.FromScratchTrainingPlugin),
    "FromScratchTraining": partial(template, strategies.FromScratchTraining),
    "ICaRLLossPlugin": lambda config: template(strategies.Naive, config, criterion=strategies.ICaRLLossPlugin()),
    "SCRLoss": lambda config: template(strategies.Naive, config, criterion=strategies.SCRLoss()),
    "PPPloss": lambda config: template(strategies.Naive, config, criterion=plugins.PPPloss({})),
    "AETraining": partial(template, strategies.AETraining, device="cpu"),
    "VAETraining": partial(template, strategies.VAETraining, device="cpu"),
    "DER": partial(template, strategies.DER),
    "FeatureReplay": partial(template, strategies.FeatureReplay, last_layer_name="4"),
    "StreamingLDA": make.slda,
    "SupervisedMetaLearningTemplate": partial(bare, templates.SupervisedMetaLearningTemplate),
    **{name: partial(bare, getattr(strategies, name)) for name in _NEVER_MADE},
}
