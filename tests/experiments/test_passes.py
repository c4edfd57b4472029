"""A run makes the forward passes that docs/guide/speed.md counts, and no others; long streams are measured."""

import pytest

from benchmarks import arrival_order
from experiments.arguments import Arguments
from experiments.studies import long_streams
from experiments.studies.passes import PURPOSES, count


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "rotations"), [(2, False), (1, True)])
def test_an_image_passes_as_often_as_it_is_said_to(quick, tasks, rotations):
    quick = {
        **quick,
        "settings": {**quick["settings"], "sdlora.rotations": rotations},
    }  # which have no pass of their own
    arguments = Arguments("digits", tasks=tasks, evaluate="final", figures="none", **quick)
    baselines, before, steps, after, evaluation = count(arguments).values()
    assert baselines == 229  # all images
    # Training images; one image shows first that the model takes it; those of the second task judge the first.
    again = sum(TRAINING[digit] for digit in arrival_order(10, arguments.seed)[5:]) if tasks == 2 else 0
    assert (before, after) == (179 + 1 + again, 179)
    once = 179 - sum(round(0.1 * n) for n in TRAINING)  # those that are not held out, once an epoch
    assert steps == (1 + rotations) * once  # in the first task rotated, too
    assert evaluation == 50
    assert list(PURPOSES) == [
        "begin",
        "before_training_exp",
        "before_training_epoch",
        "after_training_exp",
        "before_eval",
    ]


#: Training images of each digit.
TRAINING = [18, 18, 18, 18, 18, 18, 18, 18, 17, 18]


@pytest.mark.slow
def test_a_long_stream_is_measured_by_part():
    arguments = long_streams.Arguments(tasks=4, classes=8, images=4, rank=2, rank_budget=4, expansion=20, image_size=8)
    found = long_streams.measure(arguments)
    parts = [*long_streams.PARTS.values()]
    assert all(len(found["seconds"][part]) == 4 and min(found["seconds"][part]) > 0 for part in parts)
    for whole, *own in zip(found["seconds"]["whole"], *(found["seconds"][part] for part in parts)):
        assert abs(whole - sum(own)) < 1e-9
    assert abs(long_streams.slope([1.0, 1.1, 1.2]) - 100 * 0.1 / 1.1) < 1e-9
