"""The profile accounts for all of a real run's time."""

import pytest
from experiments.profile_run import PARTS, PHASES, profile

from experiments.arguments import Arguments


def test_every_second_is_booked_once():
    result = profile(Arguments("digits", epochs=1, batch_size=128, image_size=16))
    for phase in PHASES:
        assert sum(result["share"][phase].values()) == pytest.approx(1)
    seconds = result["seconds"]
    assert result["total"] == pytest.approx(sum(seconds[phase][part] for phase in PHASES for part in PARTS))
    assert seconds["training"]["backward"] > 0 == seconds["evaluation"]["backward"]
    assert result["model_share"]["training"] > 0.5
