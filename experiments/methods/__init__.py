"""The methods that ``--method`` can name.

A method is a class: its fields are its own arguments (``--ewc.weight``), with their defaults and their description, and
its class attributes and functions tell a run how to train it. All share the adapters, the head, the loss and the loop.
What trains is imported by the functions, since a command line needs the fields alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.methods.adapter_per_task import CLoRA, InfLoRA, NLoRA, OLoRA, SDLoRA
from experiments.methods.method import SHARED, Method
from experiments.methods.one_adapter import EWC, Joint, LoRA, LwF, Replay
from experiments.methods.relatives import RELATIVES
from experiments.methods.unadapted import Finetune, Probe

_ALL: tuple[type[Method], ...] = (
    *(SDLoRA, Probe, Finetune, LoRA, Joint, EWC, LwF, Replay),
    *(OLoRA, NLoRA, CLoRA, InfLoRA),
    *RELATIVES,
)

METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}
"""Every method by its name."""


def joined(stream: Sequence[Any]) -> Sequence[Any]:
    """A stream with one experience that has the data of all experiences of ``stream``."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import concat_datasets

    return benchmark_from_datasets(train=[concat_datasets([e.dataset for e in stream])]).train_stream


__all__ = ["METHODS", "SHARED", "Method", "joined"]
