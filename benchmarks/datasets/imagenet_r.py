"""Split ImageNet-R (Hendrycks et al., 2021): renditions, such as art, cartoons and toys, of 200 classes of ImageNet.

It has no published training part. As in the public codes, 80 % of each class are for training: every fifth image by
name is a test image, which spreads over the kinds of rendition, since a name begins with its kind. A tree with
``train`` and ``test`` folders, as some of those codes hand on, is taken as it is.
"""

from __future__ import annotations

from functools import partial

from benchmarks.datasets.folder import read_tree
from benchmarks.datasets.published import PublishedFiles
from benchmarks.datasets.spec import BenchmarkSpec

_FILES = PublishedFiles(
    title="ImageNet-R",
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    folder="imagenet-r",
    layout="imagenet-r/n01443537/art_0.jpg and so on",
    marks=("n[0-9]*/*", "train/n[0-9]*/*"),
    read=partial(read_tree, name="imagenet_r"),
    n_classes=200,
    n_images={"all": 30_000},
)

SPLIT_IMAGENET_R = BenchmarkSpec("imagenet_r", _FILES.find, n_experiences=10, locate=_FILES.locate)
"""ImageNet-R, usually in 5, 10 or 20 experiences."""
