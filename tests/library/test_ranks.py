"""Ranks by task and depth."""

import json

import pytest

from avalanche_sdlora import SDLoRAModel
from avalanche_sdlora.adapter.linear import projections_of
from avalanche_sdlora.config import SDLoRAConfig
from avalanche_sdlora.ranks import RankSchedule
from tests.common import mlp, tiny_vit


def test_the_published_schedule_counts_tasks_from_1():
    schedule = RankSchedule.paper()
    assert [schedule.rank(task) for task in range(1, 11)] == [10, 10, 10, 8, 8, 8, 8, 6, 6, 6]
    assert (
        RankSchedule.parse("10,4:8,8:6") == RankSchedule.parse("paper") == RankSchedule({1: 10, 4: 8, 8: 6}) == schedule
    )
    with pytest.raises(ValueError, match="task=0: tasks are counted from 1"):
        schedule.rank(0)


def test_depth_spreads_the_rank_over_the_layers():
    schedule = RankSchedule.constant(8, depth=(0.5, 1.5))
    assert [schedule.rank(3, layer, 5) for layer in range(5)] == [4, 6, 8, 10, 12]
    assert RankSchedule.constant(8, depth=(1, 0.25, 1)).rank(1, 2, 5) == 2
    assert RankSchedule.constant(1, depth=(0.1, 1)).rank(1, 0, 2) == 1
    assert RankSchedule.constant(8, depth=(0.5, 1.5)).rank(1) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RankSchedule({2: 10}), "begin at 1 and rise"),
        (lambda: RankSchedule(((1, 10), (1, 8))), "begin at 1 and rise"),
        (lambda: RankSchedule({1: 8, 4: 10}), "never increase"),
        (lambda: RankSchedule({1: 0}), "at least 1"),
        (lambda: RankSchedule({1: 2.5}), "2.5 is not a whole number"),
        (lambda: RankSchedule({}), "begin at 1"),
        (lambda: RankSchedule({1: 10}, depth=(1, 0)), "factor, all above 0"),
        (lambda: RankSchedule.parse("10,8"), "rank='10,8': expected a rank such as 10"),
        (lambda: RankSchedule.parse("ten"), "rank='ten'"),
        (lambda: SDLoRAConfig(rank=True), "rank=True"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_directions_have_the_scheduled_rank():
    model = SDLoRAModel(mlp(), SDLoRAConfig(rank=RankSchedule({1: 4, 3: 2}, depth=(0.5, 1)), targets="*"))
    for k in range(4):
        model.begin_experience({0: [k]})
    ranks = [[int((p.owner == k).sum()) for k in range(4)] for p in projections_of(model)]
    assert ranks == [[2, 2, 1, 1], [4, 4, 2, 2]]


def test_a_rank_too_large_for_one_depth_is_refused():
    with pytest.raises(ValueError, match=r"rank=36: larger than layer 'blocks\.1\.attn\.qkv' allows"):
        SDLoRAModel(tiny_vit(), SDLoRAConfig(rank=RankSchedule.constant(18, depth=(0.5, 2))))


def test_a_config_survives_json():
    for config in (
        SDLoRAConfig(),
        SDLoRAConfig.paper(rank=RankSchedule.paper(), targets=("a", "b")),
        SDLoRAConfig(rank=RankSchedule.constant(3, depth=(0.5, 2)), energy=0.9, rank_budget=7, kd_tolerance=0.1),
    ):
        assert SDLoRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match=r"unknown settings \['rnak'\]"):
        SDLoRAConfig.from_dict({"rnak": 3})
