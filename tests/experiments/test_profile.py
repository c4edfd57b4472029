"""The profile accounts for all of a real run's time."""

import pytest

from experiments.arguments import Arguments
from experiments.studies.photographs import write_photographs
from experiments.studies.profile import PARTS, PHASES, profile


@pytest.mark.slow
@pytest.mark.parametrize("random_weights", [False, True])
def test_every_second_is_booked_once(random_weights):
    settings = {"sdlora.head": "linear", "sdlora.first_epochs": 1, "sdlora.rotations": False}  # a plugin's own pass
    arguments = Arguments("digits", epochs=1, batch_size=128, image_size=16, settings=settings)
    result = profile(arguments, random_weights=random_weights)
    for phase in PHASES:
        assert sum(result["share"][phase].values()) == pytest.approx(1)
    seconds = result["seconds"]
    assert result["total"] == pytest.approx(sum(seconds[phase][part] for phase in PHASES for part in PARTS))
    assert seconds["training"]["backward"] > 0 == seconds["evaluation"]["backward"]
    for phase in ("training", "evaluation"):
        assert all(
            seconds[phase][part] > 0 for part in ("forward", "loss", "loading", "metrics and loggers", "plugins")
        )
    assert seconds["baseline"]["forward"] > 0


def test_generated_photographs_are_the_same_for_a_seed_and_of_a_real_size(tmp_path):
    for name in ("a", "b"):
        write_photographs(tmp_path / name, 6, n_classes=3)
    for path in (tmp_path / "a").rglob("*.jpg"):
        data = path.read_bytes()
        assert data == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
        assert 30_000 < len(data) < 70_000
    with pytest.raises(ValueError, match="too few for 200 classes"):
        write_photographs(tmp_path, 300)
