"""Split CUB-200 (Caltech-UCSD Birds-200-2011, Wah et al., 2011): photographs of 200 species, in the published parts.

Some public codes of continual learning hand on copies with other parts, in ``train`` and ``test`` folders; the
benchmark ``folder:PATH`` takes those.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.datasets.lists import read_pairs
from benchmarks.datasets.published import PublishedFiles
from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.split import Split, SplitImage


def read_cub200(root: Path) -> Split:
    """Read ``classes.txt``, ``images.txt``, ``image_class_labels.txt`` and ``train_test_split.txt``.

    Raises:
        ValueError: A list cannot be read, or the lists do not fit together.
    """
    class_names, paths, classes, in_train = (
        dict(read_pairs(root / f"{name}.txt"))
        for name in ("classes", "images", "image_class_labels", "train_test_split")
    )
    if not paths.keys() == classes.keys() == in_train.keys() or not set(classes.values()) <= class_names.keys():
        raise ValueError(f"{root}: the lists do not name the same images and classes.")
    labels = {number: label for label, number in enumerate(class_names)}
    images = [
        SplitImage(f"images/{path}", labels[classes[number]], "train" if in_train[number] == "1" else "test")
        for number, path in paths.items()
    ]
    return Split("cub200", tuple(class_names.values()), tuple(images))


_FILES = PublishedFiles(
    title="CUB-200-2011",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    folder="CUB_200_2011",
    layout="CUB_200_2011/images.txt, classes.txt, image_class_labels.txt, train_test_split.txt and "
    "CUB_200_2011/images/001.Black_footed_Albatross/IMAGE.jpg and so on",
    marks=("images.txt",),
    read=read_cub200,
    n_classes=200,
    n_images={"train": 5_994, "test": 5_794},
)

SPLIT_CUB200 = BenchmarkSpec("cub200", _FILES.find, n_experiences=10, locate=_FILES.locate)
"""CUB-200, usually in 10 experiences."""
