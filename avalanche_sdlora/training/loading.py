"""A loader of whole batches, of which each of several processes loads its own part."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
    MultiDatasetDataLoader,
    ReplayDataLoader,
    SingleDatasetDataLoader,
    TaskBalancedDataLoader,
    _make_data_loader,
)
from torch.utils.data import DataLoader

from avalanche_sdlora.processes import rank, share
from avalanche_sdlora.training.randomness import random_state, set_random_state

_LONGEST_DECIDES = (SingleDatasetDataLoader, TaskBalancedDataLoader, GroupBalancedDataLoader)


@dataclass(frozen=True)
class Part:
    """The part of a batch of ``whole`` samples that this process has: positions ``start`` to ``stop``.

    A process without one has the batch's first sample instead, which then counts nothing: models need a sample.
    """

    start: int
    stop: int
    whole: int

    @classmethod
    def of(cls, whole: int) -> Part:
        """This process's part."""
        own = share(whole)
        return cls(own.start, own.stop, whole)

    @property
    def counts(self) -> bool:
        """Whether the samples are this process's own."""
        return self.stop > self.start

    @property
    def taken(self) -> slice:
        """The positions of the samples that the process is given."""
        return slice(self.start, self.stop) if self.counts else slice(0, 1)


class Randomness:
    """Two sequences of random numbers: one that all processes draw alike, and one of this process's own.

    Which samples make a batch is drawn alike, and so is all that is drawn outside of an epoch. What is drawn for the
    samples of a process, by augmentation and dropout, is its own.
    """

    def __init__(self) -> None:
        self._common: dict[str, Any] | None = None

    def begin(self, seed: int) -> None:
        """Draws from a sequence of the process's own from now on."""
        self._common = random_state()
        _seed(seed)

    def end(self) -> None:
        """Draws alike again, as if nothing had been drawn in between."""
        if self._common is not None:
            set_random_state(self._common)
            self._common = None

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Within it numbers are drawn alike."""
        if self._common is None:
            yield
            return
        own = random_state()
        set_random_state(self._common)
        try:
            yield
        finally:
            self._common = random_state()
            set_random_state(own)


class SharedLoader:
    """The batches of a loader, of each this process's part alone.

    The batches, and the random numbers that are drawn to make them, are those of the loader in a program of one
    process. torch's and Avalanche's loaders load the part alone; of any other object the whole batches are cut.

    Args:
        whole: The loader.
        randomness: Is the process's own while an epoch lasts.

    Attributes:
        part: What part of the present batch this process has.

    Raises:
        ValueError: A loader of Avalanche's kind whose end cannot be told, or one of FFCV's.
    """

    def __init__(self, whole: Any, randomness: Randomness) -> None:
        if isinstance(whole, MultiDatasetDataLoader):
            _undistributed(whole)
        self.whole = whole
        self.part = Part.of(1)
        self._randomness = randomness
        self._generator = torch.Generator()
        self._kept: DataLoader[Any] | None = None  # with loader processes that persist
        self._parts: deque[Part] = deque()

    def __len__(self) -> int:
        return len(self.whole)

    def __iter__(self) -> Iterator[list[Any]]:
        loader = self._loader()
        if loader is None:
            yield from self._cut()
            return
        # torch's loader draws this number, too, when an epoch begins: the next ones are then alike.
        seed = _mixed(int(torch.empty((), dtype=torch.int64).random_()))
        self._generator.manual_seed(seed)
        self._parts.clear()
        self._randomness.begin(seed)
        try:
            for batch in loader:
                self.part = self._parts.popleft()
                yield batch
        finally:
            self._randomness.end()

    def _loader(self) -> DataLoader[Any] | None:
        """A loader of the parts, None if the whole batches must be cut."""
        if self._kept is not None:
            return self._kept
        loader = self.whole._get_loader() if isinstance(self.whole, MultiDatasetDataLoader) else self.whole
        if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
            return None
        parts: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=_Parts(loader.batch_sampler, self._randomness, self._parts),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=self._generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )
        if loader.persistent_workers:
            self._kept = parts
        return parts

    def _cut(self) -> Iterator[list[Any]]:
        batches = iter(self.whole)
        self._randomness.begin(_mixed(torch.initial_seed()))
        try:
            while True:
                with self._randomness.alike():
                    batch = next(batches, None)
                if batch is None:
                    return
                self.part = Part.of(len(batch[1]))
                yield [part[self.part.taken] for part in batch]
        finally:
            self._randomness.end()


class _Parts:
    """The indices of a process's part of every batch."""

    def __init__(self, batches: Any, randomness: Randomness, parts: deque[Part]) -> None:
        self._batches, self._randomness, self._parts = batches, randomness, parts

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self._batches)
        while True:
            with self._randomness.alike():
                batch = next(batches, None)
            if batch is None:
                return
            part = Part.of(len(batch))
            self._parts.append(part)
            yield list(batch[part.taken])


def _undistributed(loader: MultiDatasetDataLoader) -> None:
    """Lets a loader of Avalanche make the batches that it makes in one process: it has counted those of a part."""
    if loader.ffcv_args.get("device") is not None:
        raise ValueError("ffcv_args: FFCV's loaders cannot be shared by several processes; leave them out")
    if not loader.distributed_sampling:
        return
    loader.distributed_sampling = False
    if loader.never_ending:
        return
    lengths = [
        len(_make_data_loader(data, False, loader.loader_kwargs, size, force_no_workers=True)[0])
        for data, size in zip(loader.datasets, loader.batch_sizes)
    ]
    if type(loader) in _LONGEST_DECIDES:
        loader.termination_dataset = lengths.index(max(lengths))
    elif type(loader) is not ReplayDataLoader:  # which knows what decides
        raise ValueError(
            f"{type(loader).__name__}: which of its data sets ends an epoch is not known, so several processes cannot "
            "share it; make it with distributed_sampling=False"
        )
    loader.n_iterations = lengths[loader.termination_dataset]


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def _mixed(seed: int) -> int:
    """A seed of this process's own."""
    return int.from_bytes(hashlib.sha256(f"{seed} {rank()}".encode()).digest()[:7], "little")
