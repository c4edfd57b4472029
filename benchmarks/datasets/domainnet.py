"""Split DomainNet (Peng et al., 2019): 345 classes in six domains, as a stream of classes and as a stream of domains.

The parts are those of the published lists ``DOMAIN_train.txt`` and ``DOMAIN_test.txt`` of the cleaned version.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from benchmarks.datasets.lists import read_pairs
from benchmarks.datasets.published import PublishedFiles
from benchmarks.datasets.spec import BenchmarkSpec
from benchmarks.images.split import Part, Split, SplitImage

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def read_domainnet(root: Path) -> Split:
    """Read the two lists of each domain; a line is ``DOMAIN/CLASS/IMAGE LABEL``.

    Raises:
        ValueError: A list cannot be read, or the labels are not ``0 .. C-1``.
    """
    images = []
    names: dict[int, str] = {}
    for part in get_args(Part):
        for domain in DOMAINS:
            path = root / f"{domain}_{part}.txt"
            for image, label in read_pairs(path, last=True):
                folders = image.split("/")
                if len(folders) < 3 or not label.isdecimal():
                    raise ValueError(f"{path}: expected lines of DOMAIN/CLASS/IMAGE LABEL; got {image!r} {label!r}.")
                names.setdefault(int(label), folders[-2])
                images.append(SplitImage(image, int(label), part, domain))
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{root}: the labels in the lists must be 0 to {len(names) - 1}; the largest is {max(names)}.")
    return Split("domainnet", tuple(names[label] for label in range(len(names))), tuple(images))


_FILES = PublishedFiles(
    title="DomainNet",
    url="https://ai.bu.edu/M3SDA/ (the cleaned version: six archives and twelve lists)",
    folder="domainnet",
    layout="domainnet/clipart_train.txt, domainnet/clipart_test.txt, domainnet/clipart/aircraft_carrier/IMAGE.jpg and "
    f"so on for {', '.join(DOMAINS)}",
    marks=("clipart_train.txt",),
    read=read_domainnet,
    n_classes=345,
    n_images={"train": 409_832, "test": 176_743},
)

SPLIT_DOMAINNET = BenchmarkSpec("domainnet", _FILES.find, n_experiences=5, locate=_FILES.locate)
"""All images of DomainNet, class-incremental: usually 5 experiences of 69 classes."""

DOMAINNET_BY_DOMAIN = BenchmarkSpec(
    "domainnet_domains", _FILES.find, n_experiences=len(DOMAINS), by_domain=True, locate=_FILES.locate
)
"""DomainNet, domain-incremental: six experiences of one domain each."""
