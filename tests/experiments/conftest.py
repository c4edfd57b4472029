"""What the tests of experiments share."""

import pytest

from experiments.arguments import Arguments
from experiments.run import run

#: The random expansion is small, since solving it takes most of the time of so short a run.
QUICK = {"epochs": 1, "batch_size": 128, "image_size": 16, "settings": {"sdlora.expansion": 50}}


@pytest.fixture(scope="session")
def quick():
    """Arguments of a run on digits that takes few seconds."""
    return QUICK


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run on digits: its results and its folder."""
    output = tmp_path_factory.mktemp("finished") / "digits"
    return run(Arguments("digits", output=str(output), **QUICK)), output
