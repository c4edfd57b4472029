"""The data sets that LAMDA-PILOT hands on, chosen from larger ones for class-incremental learning.

They are from Zhou et al., "Revisiting Class-Incremental Learning with Pre-Trained Models", IJCV 2024 (arXiv
2303.07338): 200 classes of ObjectNet (Barbu et al., 2019), 300 of OmniBenchmark (Zhang et al., 2022), and 50 of
five data sets of VTAB (Zhai et al., 2019), ten of each. Stanford Cars (Krause et al., 2013) has its published parts
in the same layout, ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``. Labels are the classes by name, as there; so an
order of labels of theirs, ``numpy.random.RandomState(1993).permutation(classes)``, is an order here
(``make_benchmark(..., class_order="order.npy")``).

The paper was not at hand: its numbers of images are those that public tables of later codes agree on. For the test
images of OmniBenchmark these say 5,985 and 5,983, so that they are not counted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.datasets.folder import read_tree
from benchmarks.datasets.published import PublishedFiles
from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.split import Split

_CODE = "https://github.com/sun-hailong/LAMDA-PILOT"


def read_parts(root: Path, name: str) -> Split:
    """The split of the ``train`` and ``test`` folders of ``root``, classes sorted by name.

    Raises:
        ValueError: There are no such folders, or a class lacks images.
    """
    lacking = [part for part in ("train", "test") if not (root / part).is_dir()]
    if lacking:
        raise ValueError(f"{root} lacks {' and '.join(lacking)}; expected train/CLASS/IMAGE and test/CLASS/IMAGE.")
    return read_tree(root, name=name)


def _published(name: str, title: str, folder: str, classes: int, images: dict[str, int]) -> PublishedFiles:
    return PublishedFiles(
        title=title,
        url=_CODE,
        folder=folder,
        layout=f"{folder}/train/CLASS/IMAGE and {folder}/test/CLASS/IMAGE",
        marks=("train/*/*", "test/*/*"),
        read=partial(read_parts, name=name),
        n_classes=classes,
        n_images=images,
    )


_OBJECTNET = _published("objectnet", "ObjectNet", "objectnet", 200, {"train": 26_509, "test": 6_628})
_OMNIBENCHMARK = _published("omnibenchmark", "OmniBenchmark", "omnibenchmark", 300, {"train": 89_697})
_VTAB = _published("vtab", "VTAB", "vtab-cil/vtab", 50, {"train": 1_796, "test": 8_619})
_CARS = _published("cars", "Stanford Cars", "cars", 196, {"train": 8_144, "test": 8_041})

SPLIT_OBJECTNET = BenchmarkSpec("objectnet", _OBJECTNET.find, n_experiences=10, locate=_OBJECTNET.locate)
"""200 classes of ObjectNet, usually in 10 experiences."""

SPLIT_OMNIBENCHMARK = BenchmarkSpec(
    "omnibenchmark", _OMNIBENCHMARK.find, n_experiences=10, locate=_OMNIBENCHMARK.locate
)
"""300 classes of OmniBenchmark, usually in 10 experiences."""

SPLIT_VTAB = BenchmarkSpec("vtab", _VTAB.find, n_experiences=5, locate=_VTAB.locate)
"""50 classes of five data sets of VTAB, usually in 5 experiences."""

SPLIT_CARS = BenchmarkSpec("cars", _CARS.find, n_experiences=14, locate=_CARS.locate)
"""Stanford Cars, 196 classes in 14 experiences of 14; the peers' 10 experiences are of 16 and nine times 20 classes."""
