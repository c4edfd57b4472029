"""Figures are drawn of what a run saw, and of nothing else."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from experiments.figures import RUN_FIGURES
from experiments.figures.comparison import pareto
from experiments.figures.directions import short_name
from experiments.figures.pictures import specifications, write_svg
from experiments.figures.style import provenance
from tests.experiments.report.made_up import made_up_results


@pytest.fixture(scope="module")
def specs():
    return specifications(made_up_results())


_TEXT = "{http://www.w3.org/2000/svg}text"


def _texts(path):
    return " ".join(" ".join(e.itertext()) for e in ElementTree.parse(path).iter(_TEXT))


def test_a_run_that_saw_everything_has_every_figure(specs):
    assert list(specs) == [figure.name for figure in RUN_FIGURES]
    json.dumps(specs, allow_nan=False)
    for figure in RUN_FIGURES:
        figure.draw(made_up_results()).to_dict()  # against the schema


def test_what_a_run_did_not_see_is_left_out():
    results = made_up_results(observed={}, baselines={})
    assert set(specifications(results)) == {"accuracy_over_tasks", "accuracy_matrix"}


def test_a_stream_of_one_task_and_joint_training_can_be_drawn():
    assert "accuracy_matrix" in specifications(made_up_results(tasks=1))
    rows = [None] * 4 + [[80.0] * 5]
    known = {**made_up_results()["observed"], "task_known": rows}
    assert "task_known" in specifications(made_up_results(accuracy_matrix=rows, observed=known))


@pytest.mark.parametrize("name", ["accuracy_over_tasks", "distances", "residuals", "confusion_of_classes"])
def test_every_figure_says_where_it_is_from_and_its_units(specs, name, tmp_path):
    write_svg(tmp_path / "figure.svg", specs[name])
    shown = _texts(tmp_path / "figure.svg")
    for told in ("digits, 5 tasks", "vit_micro_patch4_32.formula, 32 px", "seed 0", "avalanche-sdlora 0.0", "abc1234"):
        assert told in shown
    assert any(unit in shown for unit in ("(%)", "(log)", "norm)"))


def test_each_number_of_tasks_stands_once_on_the_axis(tmp_path):
    write_svg(tmp_path / "figure.svg", specifications(made_up_results(tasks=2))["accuracy_over_tasks"])
    shown = ["".join(e.itertext()) for e in ElementTree.parse(tmp_path / "figure.svg").iter(_TEXT)]
    assert [shown.count(str(tasks)) for tasks in (1, 2)] == [1, 1]


def test_seeds_and_versions_of_many_runs_are_told_once():
    told = " ".join(provenance([made_up_results(seed=seed) for seed in range(6)]))
    assert "seeds 0, 1, 2, 3 and 2 more" in told
    assert told.count("abc1234") == 1


def test_the_front_has_what_nothing_beats():
    points = [(1, 50), (2, 40), (3, 60), (3, 55), (4, 60), (5, 70)]
    assert pareto(points) == [0, 2, 5]


@pytest.mark.parametrize(
    ("layer", "short"),
    [("blocks.3.attn.qkv", "block 3"), ("backbone.layers.11.attn.q", "block 11"), ("fc1", "fc1"), ("0", "0")],
)
def test_layers_have_short_names(layer, short):
    assert short_name(layer) == short
