"""Split ImageNet-R (Hendrycks et al., 2021) and ImageNet-A (Hendrycks et al., 2021): 200 classes of ImageNet each.

ImageNet-R holds renditions: art, cartoons, toys; ImageNet-A photographs that classifiers of its time got wrong. Neither
has a published training part. As in the public codes, 80 % of each class are for training: every fifth image by name
is a test image, which in ImageNet-R, where names begin with the kind of rendition, spreads over the kinds. A tree with
``train`` and ``test`` folders, as some of those codes hand on, is taken as it is.
"""

from __future__ import annotations

from functools import partial

from benchmarks.folder import read_tree
from benchmarks.published import PublishedFiles
from benchmarks.stream import Stream

_MARKS = ("n[0-9]*/*", "train/n[0-9]*/*")

_IMAGENET_R = PublishedFiles(
    title="ImageNet-R",
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    folder="imagenet-r",
    layout="imagenet-r/n01443537/art_0.jpg and so on",
    marks=_MARKS,
    read=partial(read_tree, name="imagenet_r"),
    n_classes=200,
    n_images={"all": 30_000},
)

split_imagenet_r = Stream("imagenet_r", _IMAGENET_R, n_experiences=10, locate=_IMAGENET_R.locate)
"""ImageNet-R, usually in 5, 10 or 20 experiences."""

_IMAGENET_A = PublishedFiles(
    title="ImageNet-A",
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
    folder="imagenet-a",
    layout="imagenet-a/n01498041/0.000116_digital clock _ digital clock_0.865662.jpg and so on",
    marks=_MARKS,
    read=partial(read_tree, name="imagenet_a"),
    n_classes=200,
    n_images={"all": 7_500},
)

split_imagenet_a = Stream("imagenet_a", _IMAGENET_A, n_experiences=10, locate=_IMAGENET_A.locate)
"""ImageNet-A, usually in 10 experiences."""
