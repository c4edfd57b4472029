"""Several processes that train one model: who they are, what they tell each other, and who is lost.

Everything here is ``torch.distributed``, as ``torchrun`` starts it, and knows neither models nor Avalanche, but that it
must be imported before processes join. In a program of one process every function does what its name says at once,
without any communication.
"""

from avalanche_sdlora.processes.alike import check_alike, check_same
from avalanche_sdlora.processes.collectives import (
    all_sum,
    broadcast,
    first_object,
    from_first,
    gather_objects,
    gather_rows,
    share,
    wait_for_all,
)
from avalanche_sdlora.processes.group import is_first, local_rank, rank, several, size, start
from avalanche_sdlora.processes.lifeline import ProcessLostError, last_words, place

__all__ = [
    "ProcessLostError",
    "all_sum",
    "broadcast",
    "check_alike",
    "check_same",
    "first_object",
    "from_first",
    "gather_objects",
    "gather_rows",
    "is_first",
    "last_words",
    "local_rank",
    "place",
    "rank",
    "several",
    "share",
    "size",
    "start",
    "wait_for_all",
]
