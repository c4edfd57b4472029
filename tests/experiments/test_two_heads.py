"""Methods with two heads each: one training, and what is counted beside it."""

import dataclasses

import pytest
import torch

from avalanche_sdlora.persistence.checkpoint import CHECKPOINT
from experiments.arguments import Arguments
from experiments.compare.grid import plan
from experiments.run import run
from experiments.studies.two_heads import Beside, study
from tests.benchmarks.samples import fill
from tests.common import MLP, points_stream, strategy_for


def test_a_head_in_closed_form_beside_the_trained_one_does_not_change_training():
    linear, beside = [], Beside()
    for config in (MLP, dataclasses.replace(MLP, head="random_ridge", expansion=20)):
        torch.manual_seed(0)
        strategy = strategy_for(config=config, train_epochs=2)
        if config is not MLP:
            beside.watch(strategy)
        for experience in points_stream().train_stream[:2]:
            torch.manual_seed(1)
            strategy.train(experience)
            strategy.eval(points_stream().test_stream[:2])
        linear.append(strategy.model)
    alone, both = linear
    assert torch.equal(alone.head.weight, both.head.weight)
    points = torch.stack([x for x, *_ in points_stream().test_stream[0].dataset.eval()])
    labels = torch.tensor(points_stream().test_stream[0].dataset.targets)
    assert beside.hits[-1][0] == int((alone.eval()(points).argmax(1) == labels).sum())
    assert beside.images[-1][0] == len(labels)
    assert beside.cpu > 0


@pytest.mark.slow
def test_the_study_has_the_accuracy_of_the_linear_head_that_a_run_has(tmp_path):
    fill(tmp_path / "images", {"a": 8, "b": 8, "c": 8, "d": 8})
    dataset, small = (
        f"folder:{tmp_path / 'images'}",
        {"tasks": 2, "epochs": 1, "backbone": "vit_micro_patch4_32.formula"},
    )
    methods = {"lora": {"method": "lora"}, "duallora": {"method": "duallora"}, "ranpac": {"method": "ranpac"}}
    methods["ranpac"]["sdlora.expansion"] = 50
    given = {**small, "figures": "none", "baselines": False}
    cells = plan([dataset], methods, [0], tmp_path / "out", given)
    cells[0].folder.mkdir(parents=True)
    (cells[0].folder / CHECKPOINT).write_text("of an interrupted run, which begins anew")
    study(cells, tmp_path / "out")
    table = (tmp_path / "out" / "two_heads.md").read_text()
    alone = run(Arguments.from_flat({**given, "dataset": dataset, "method": "lora", "output": str(tmp_path / "run")}))
    assert f"| lora | 1 | {alone['acc']:.1f} | {alone['aaa']:.1f} | " in table
    assert all(f"| {name} | 1 | " in table for name in methods)
    before = table
    study(cells, tmp_path / "out")  # runs nothing again
    assert (tmp_path / "out" / "two_heads.md").read_text() == before
