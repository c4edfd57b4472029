"""The data sets, a file each or for all that one code hands on, which is imported when its data set is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from avalanche_sdlora.near import did_you_mean

if TYPE_CHECKING:
    from benchmarks.datasets.spec import BenchmarkSpec

#: The module of each data set, and the name that its description has there.
_HOMES = {
    "cars": ("lamda_pilot", "SPLIT_CARS"),
    "cifar100": ("cifar100", "SPLIT_CIFAR100"),
    "cub200": ("cub200", "SPLIT_CUB200"),
    "digits": ("digits", "SPLIT_DIGITS"),
    "domainnet": ("domainnet", "SPLIT_DOMAINNET"),
    "domainnet_domains": ("domainnet", "DOMAINNET_BY_DOMAIN"),
    "folder": ("folder", "SPLIT_FOLDER"),
    "imagenet_a": ("imagenet_a", "SPLIT_IMAGENET_A"),
    "imagenet_r": ("imagenet_r", "SPLIT_IMAGENET_R"),
    "objectnet": ("lamda_pilot", "SPLIT_OBJECTNET"),
    "omnibenchmark": ("lamda_pilot", "SPLIT_OMNIBENCHMARK"),
    "omniglot": ("omniglot", "SPLIT_OMNIGLOT"),
    "vtab": ("lamda_pilot", "SPLIT_VTAB"),
}


class _Benchmarks(Mapping[str, "BenchmarkSpec"]):
    """The descriptions by name; names alone import no data set, and with it no torch."""

    def __getitem__(self, name: str) -> BenchmarkSpec:
        module, attribute = _HOMES[name]
        spec: BenchmarkSpec = getattr(import_module(f"{__name__}.{module}"), attribute)
        return spec

    def __contains__(self, name: object) -> bool:
        return name in _HOMES

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


BENCHMARKS: Mapping[str, BenchmarkSpec] = _Benchmarks()
"""Every benchmark by its name."""


def benchmark_name(name: str) -> str:
    """The full name of a benchmark: a key of ``BENCHMARKS`` in any case, ``folder`` with ``:PATH`` behind it.

    Raises:
        ValueError: There is none; the message gives near matches.
    """
    kind, colon, path = name.partition(":")
    if kind.lower() in BENCHMARKS and (kind.lower() == "folder" or not colon):
        return kind.lower() + colon + path
    names = ["folder:PATH" if known == "folder" else known for known in sorted(BENCHMARKS)]
    raise ValueError(f"Unknown benchmark {name!r}: there are {', '.join(names)}{did_you_mean(kind.lower(), names)}")
