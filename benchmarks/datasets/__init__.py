"""The data sets, a file each."""

from __future__ import annotations

from benchmarks.datasets.cifar100 import SPLIT_CIFAR100
from benchmarks.datasets.cub200 import SPLIT_CUB200
from benchmarks.datasets.digits import SPLIT_DIGITS
from benchmarks.datasets.domainnet import DOMAINNET_BY_DOMAIN, SPLIT_DOMAINNET
from benchmarks.datasets.folder import SPLIT_FOLDER
from benchmarks.datasets.imagenet_a import SPLIT_IMAGENET_A
from benchmarks.datasets.imagenet_r import SPLIT_IMAGENET_R
from benchmarks.datasets.lamda_pilot import SPLIT_CARS, SPLIT_OBJECTNET, SPLIT_OMNIBENCHMARK, SPLIT_VTAB
from benchmarks.datasets.omniglot import SPLIT_OMNIGLOT
from benchmarks.datasets.spec import BenchmarkSpec

BENCHMARKS: dict[str, BenchmarkSpec] = {
    spec.name: spec
    for spec in (
        SPLIT_CARS,
        SPLIT_CIFAR100,
        SPLIT_CUB200,
        SPLIT_DIGITS,
        SPLIT_DOMAINNET,
        DOMAINNET_BY_DOMAIN,
        SPLIT_FOLDER,
        SPLIT_IMAGENET_A,
        SPLIT_IMAGENET_R,
        SPLIT_OBJECTNET,
        SPLIT_OMNIBENCHMARK,
        SPLIT_OMNIGLOT,
        SPLIT_VTAB,
    )
}
"""Every benchmark by its name."""
