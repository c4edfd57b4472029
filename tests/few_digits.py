"""Every eighth of the digits, where a run need not be a good one: ``python -m tests.few_digits SCRIPT WORD...``."""

import runpy
import sys
from pathlib import Path

import numpy as np
import sklearn.datasets

import benchmarks.datasets.digits

ALL = sklearn.datasets.load_digits


def load_digits(return_X_y):
    pixels, labels = ALL(return_X_y=return_X_y)
    few = np.concatenate([np.flatnonzero(labels == label)[::8] for label in range(10)])
    return pixels[few], labels[few]


def use_few(put=setattr):
    """Puts them in the place of all, by ``put`` where this is to be undone."""
    for module in (sklearn.datasets, benchmarks.datasets.digits):
        put(module, "load_digits", load_digits)


if __name__ == "__main__":
    use_few()
    script = sys.argv.pop(1)
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
