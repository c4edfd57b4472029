"""What the tests of experiments share."""

import fcntl
import pickle

import pytest

from experiments.arguments import Arguments
from experiments.run import run
from tests.few_digits import use_few

#: Digits have 8 x 8 pixels; a small random expansion, since solving a large one takes most of the time of a short run.
QUICK = {
    "epochs": 1,
    "batch_size": 128,
    "image_size": 8,
    "settings": {"sdlora.expansion": 50, "sdlora.first_epochs": 1},
}


@pytest.fixture(scope="package", autouse=True)
def few_digits():
    """Runs of this process learn every eighth of the digits."""
    with pytest.MonkeyPatch.context() as patch:
        use_few(patch.setattr)
        yield


@pytest.fixture(scope="session")
def quick():
    """Arguments of a run on digits that takes few seconds."""
    return QUICK


@pytest.fixture(scope="package")
def finished(few_digits, tmp_path_factory, request):
    """A finished run on digits: its results and its folder. The processes of one call of pytest share it."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # the folder of one of pytest-xdist's processes lies in that of all
        base = base.parent
    output, results = base / "finished" / "digits", base / "finished.pickle"
    with open(base / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not results.exists():
            results.write_bytes(pickle.dumps(run(Arguments("digits", output=str(output), **QUICK))))
    return pickle.loads(results.read_bytes()), output
