"""Every plugin and strategy that Avalanche exports, with SD-LoRA's plugin: it works, or is refused before training."""

import dataclasses
import importlib.util
from functools import cache, partial

import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training import LFL, HerdingSelectionStrategy, JointTraining, Naive, ParametricBuffer
from avalanche.training.plugins import EWCPlugin, ReplayPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import nn

from avalanche_sdlora import RankSchedule, SDLoRAConfig, SDLoRAModel, SDLoRAPlugin
from avalanche_sdlora.training.compatibility import REFUSALS, check_strategy
from tests.common import MLP, Points, Watch, mlp, optimized, trainable
from tests.library.avalanche_catalogue import REFUSED, WORKS, exported
from tests.library.avalanche_strategies import beside, masked, template
from tests.library.avalanche_table import PATH, table

pytestmark = pytest.mark.slow

CONFIGS = {
    "every": MLP,
    "single": dataclasses.replace(MLP, directions="single"),
    "reduced": dataclasses.replace(MLP, rank=RankSchedule({1: 3, 2: 2, 3: 1}), energy=0.9, rank_budget=4),
    "closed form": dataclasses.replace(MLP, head="ridge", drift="linear"),
    "default": SDLoRAConfig(rank=2, targets="*", expansion=24),
    "single, closed form": dataclasses.replace(MLP, directions="single", head="ridge"),
}


@cache
def stream(labels):
    """Three experiences of two classes, of Avalanche's older kind with task labels or of the newer one without."""
    if labels:
        return nc_benchmark(Points(6), Points(6), 3, task_labels=False, shuffle=False).train_stream
    data = as_classification_dataset(Points(6))
    return class_incremental_benchmark({"train": data}, class_order=list(range(6)), num_experiences=3).train_stream


#: The configs with which what remembers parameters works; everything else works with all.
SOUND = {
    "EWC": {"single"},
    "MAS": {"single", "single, closed form"},
    "SynapticIntelligence": {"single", "single, closed form"},
    "GEM": set(CONFIGS if importlib.util.find_spec("quadprog") else ()),
}


def sound(name, config):
    return config in SOUND.get(name.removesuffix("Plugin"), CONFIGS)


def refused(strategy, config):
    try:
        check_strategy(strategy, config)
    except ValueError:
        return True
    return False


def learn(strategy, experiences):
    """Trains, and checks after every experience whatever must hold whoever else takes part."""
    joint = isinstance(strategy, JointTraining)
    optimizer, frozen = strategy.optimizer, [layer.weight for layer in mlp() if isinstance(layer, nn.Linear)][:-1]
    classes = []
    for experience in [experiences] if joint else experiences:
        # Only what stops early looks at an evaluation.
        strategy.train(experience, eval_streams=None if strategy.train_epochs == 8 else [])
        new = [0, 1, 2, 3, 4, 5] if joint else sorted(experience.classes_in_this_experience)
        classes += new
        model = strategy.model
        assert model.head.classes() == classes
        assert len(model.head.weight) == len(classes)
        assert strategy.optimizer is optimizer
        assert len(optimized(strategy)) == len(set(optimized(strategy)))
        assert set(optimized(strategy)) == set(trainable(strategy))
        weights = [adapter.base.weight for adapter in model.backbone if hasattr(adapter, "base")]
        assert all(torch.equal(a, b) for a, b in zip(weights, frozen, strict=True))
        x, y = Points(6).tensors
        own = (y[:, None] == torch.tensor(new)).any(1)
        with torch.no_grad():
            logits = model.eval()(x[own])[:, new]
        assert (torch.tensor(new)[logits.argmax(1)] == y[own]).float().mean() > 1.5 / len(new)
    if model.closed_form is not None:  # which compares all classes
        assert (model(x).argmax(1) == y).float().mean() > 2 / len(classes)


def test_every_export_of_avalanche_is_known():
    unknown = sorted(exported().keys() - WORKS.keys() - REFUSED.keys())
    assert not unknown, (
        f"Avalanche exports {unknown}: try each with SDLoRAPlugin and put it into WORKS of "
        "tests/library/avalanche_catalogue.py, or into REFUSED there and REFUSALS of training/compatibility.py"
    )
    gone = sorted((WORKS.keys() | REFUSED.keys() | {refusal.name for refusal in REFUSALS}) - exported().keys())
    assert not gone, f"this version of Avalanche no longer has {gone}"
    assert not WORKS.keys() & REFUSED.keys()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", WORKS)
def test_it_works_or_is_refused_for_what_the_config_asks(name, config):
    torch.manual_seed(0)
    strategy = WORKS[name].make(CONFIGS[config])
    if not sound(name, config):
        model = strategy.model
        with pytest.raises(ValueError, match="cannot work with SDLoRAPlugin with"):
            strategy.train(stream(True)[0])
        assert strategy.model is model
        assert int(getattr(model, "experiences", 0)) == 0
        return
    watch = Watch()
    strategy.plugins.insert(1, watch)
    learn(strategy, stream(True))
    assert watch.iterations or name == "MER"  # which has iterations of its own


@pytest.mark.parametrize("name", [n for n, entry in WORKS.items() if not entry.labels and sound(n, "single")])
def test_it_works_on_a_stream_without_task_labels(name):
    torch.manual_seed(0)
    strategy = WORKS[name].make(CONFIGS["single"])
    strategy.plugins.insert(1, Watch())
    learn(strategy, stream(False))


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_anything_has_changed(name):
    strategy = REFUSED[name](MLP)
    made = hasattr(strategy, "optimizer")
    begin = partial(strategy.train, stream(True)[0]) if made else partial(check_strategy, strategy, MLP)
    with pytest.raises(ValueError, match=r"cannot work with SDLoRAPlugin: .*\. Use .+"):
        begin()
    if isinstance(getattr(strategy, "model", None), nn.Sequential):
        assert [type(layer) for layer in strategy.model] == [type(layer) for layer in mlp()]


@pytest.mark.parametrize("directions", ["every", "first", "single"])
@pytest.mark.parametrize("name", ["EWC", "MAS", "SynapticIntelligence"])
def test_what_remembers_parameters_by_name_needs_one_direction(name, directions):
    config = dataclasses.replace(MLP, directions=directions)
    assert refused(WORKS[name].make(config), config) == (directions != "single")
    without = SDLoRAConfig(targets=(), directions=directions, head="linear")
    assert not refused(WORKS[name].make(without), without)


def test_conditions_of_the_others():
    assert refused(beside(lambda: EWCPlugin(1.0), CONFIGS["single, closed form"]), CONFIGS["single, closed form"])
    assert refused(WORKS["GEM"].make(MLP), MLP) == (importlib.util.find_spec("quadprog") is None)
    assert [mask for mask in ("new", "seen", "old", "all") if refused(masked(MLP, mask), MLP)] == ["seen", "old", "all"]


def test_lfl_is_refused_where_it_would_freeze_a_layer_that_trains():
    strategy = template(LFL, MLP, model=SDLoRAModel(mlp(), MLP), lambda_e=1.0)
    assert not refused(strategy, MLP)
    strategy.model.backbone.requires_grad_(True)
    assert refused(strategy, MLP)


def test_lfl_finds_the_features_and_keeps_them_where_they_were():
    def moved(weight):
        torch.manual_seed(0)
        strategy, experiences = template(LFL, MLP, lambda_e=weight), stream(True)
        strategy.train(experiences[0])
        x = Points(6).tensors[0]
        before = strategy.model.get_features(x).detach()
        strategy.train(experiences[1])
        return (strategy.model.get_features(x) - before).norm()

    assert moved(10.0) < 0.8 * moved(0.0)


def test_exemplars_can_be_chosen_by_features():
    model = SDLoRAModel(mlp(), MLP)
    herding = HerdingSelectionStrategy(model, "backbone")
    replay = ReplayPlugin(20, storage_policy=ParametricBuffer(20, groupby="class", selection_strategy=herding))
    learn(template(Naive, MLP, model=model, plugins=[SDLoRAPlugin(MLP), Watch(), replay]), stream(True))
    kept = [int(label) for label in replay.storage_policy.buffer.targets]
    assert set(kept) == set(range(6))
    assert len(kept) == 20


def test_subclasses_are_refused_and_the_users_own_are_not():
    class Mine(EWCPlugin):
        pass

    class Replayed(ReplayPlugin):
        pass

    assert refused(beside(lambda: Mine(1.0), MLP), MLP)
    assert not refused(beside(Replayed, MLP), MLP)
    assert not refused(Naive(model=mlp(), optimizer=None, criterion=None, evaluator=None), MLP)


@pytest.mark.parametrize("name", ["EWCPlugin", "MASPlugin", "SynapticIntelligencePlugin"])
def test_a_periodic_evaluation_changes_nothing_that_is_learned(name):
    class Seeded(SupervisedPlugin):  # an evaluation draws numbers
        def before_training_exp(self, strategy, **kwargs):
            torch.manual_seed(0)

    def learned(eval_every):
        torch.manual_seed(0)
        strategy = WORKS[name].make(CONFIGS["single"])
        strategy.plugins.insert(0, Seeded())
        next(p for p in strategy.plugins if isinstance(p, PeriodicEval)).eval_every = eval_every
        for experience in stream(True):
            strategy.train(experience, eval_streams=[stream(True)[:1]], shuffle=False)
        return strategy.model.state_dict()

    never, often = learned(-1), learned(1)
    assert all(torch.equal(t, often[key]) for key, t in never.items())


def test_the_table_in_the_docs_is_that_of_this_version():
    assert PATH.read_text() == table(), f"{PATH} is out of date: python -m tests.library.avalanche_table writes it anew"
