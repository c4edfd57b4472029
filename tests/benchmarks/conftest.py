"""Folders of images that the tests of the benchmarks share."""

import os
from pathlib import Path

import pytest

from benchmarks.datasets import cifar100, omniglot
from tests.benchmarks.samples import fill


@pytest.fixture
def folder(tmp_path):
    """A folder of three classes, ``CLASS/IMAGE``."""
    return fill(tmp_path / "images", {"a": 12, "b": 7, "c": 5})


@pytest.fixture
def real_cifar100():
    """The folder that SDLORA_DATA names, if it holds the subset of CIFAR-100."""
    return holding([cifar100.SUBSET_FILE])


@pytest.fixture
def real_omniglot():
    """The folder that SDLORA_DATA names, if it holds the zip files of Omniglot."""
    return holding(omniglot.ZIP_FILES)


def holding(names):
    folder = os.environ.get("SDLORA_DATA")
    if not folder or not all((Path(folder) / name).is_file() for name in names):
        pytest.skip(f"SDLORA_DATA names no folder with {' and '.join(names)}")
    return Path(folder)
