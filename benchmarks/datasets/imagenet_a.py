"""Split ImageNet-A (Hendrycks et al., 2021): photographs of 200 classes of ImageNet that classifiers got wrong.

It has no published training part. As in the public codes, 80 % of each class are for training: every fifth image by
name is a test image. A tree with ``train`` and ``test`` folders, as some of those codes hand on, is taken as it is.
"""

from __future__ import annotations

from functools import partial

from benchmarks.datasets.folder import read_tree
from benchmarks.datasets.published import PublishedFiles
from benchmarks.datasets.spec import BenchmarkSpec

_FILES = PublishedFiles(
    title="ImageNet-A",
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
    folder="imagenet-a",
    layout="imagenet-a/n01498041/0.000116_digital clock _ digital clock_0.865662.jpg and so on",
    marks=("n[0-9]*/*", "train/n[0-9]*/*"),
    read=partial(read_tree, name="imagenet_a"),
    n_classes=200,
    n_images={"all": 7_500},
)

SPLIT_IMAGENET_A = BenchmarkSpec("imagenet_a", _FILES.find, n_experiences=10, locate=_FILES.locate)
"""ImageNet-A, usually in 10 experiences."""
