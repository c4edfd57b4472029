"""Penalties are chosen while samples grow, and kept in between."""

import pytest
import torch

from avalanche_sdlora.heads import ridge
from avalanche_sdlora.heads.closed_form import ClosedFormHead
from avalanche_sdlora.heads.penalties import Penalties
from avalanche_sdlora.persistence import adapter_files
from tests.library.samples import data


@pytest.fixture
def chosen(monkeypatch):
    """How many eigenvalue problems have been solved."""
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(ridge.torch.linalg, "eigh", lambda gram: calls.append(len(gram)) or eigh(gram))
    return calls


def test_of_many_equal_tasks_few_choose(chosen):
    head, (x, y) = ClosedFormHead(6, "ridge"), data(n=96, d=6)
    choosing = []
    for task in range(12):
        before = len(chosen)
        head.learn([(x[task::12], y[task::12])], 31)
        choosing += [task + 1] if len(chosen) > before else []
    assert choosing == [1, 2, 3, 5, 8, 12]


def test_in_between_the_regression_is_that_of_all_samples_with_the_penalty_kept():
    head, (x, y) = ClosedFormHead(6, "ridge"), data(n=96, d=6)
    for part in (slice(0, 70), slice(70, 96)):
        head.learn([(x[part], y[part])], 31)
    assert head.penalty == float(head.penalties.values[0])
    found = ridge.fit_ridge(head.statistics, head.penalty)
    torch.testing.assert_close(head.weight[head.statistics.labels], found.weight)


@pytest.mark.parametrize("anew", [False, True])
def test_samples_that_come_in_the_place_of_others_choose_anew(chosen, anew):
    head, (x, y) = ClosedFormHead(6, "ridge"), data(n=96, d=6)
    head.learn([(x, y)], 31)
    before = len(chosen)
    head.learn([(x[:20], y[:20])], 31, anew=anew)
    assert (len(chosen) > before) == anew


def test_without_any_they_are_to_be_chosen_and_a_file_from_before_has_none():
    penalties = Penalties()
    assert penalties.known(0) == penalties.known(10) == []
    penalties.keep([2.0, None], 10)
    assert penalties.known(14) == [2.0, None]
    assert penalties.known(15) == []
    head, tensors = ClosedFormHead(6), {}
    state = {f"closed_form.{name}": t for name, t in head.state_dict().items()}
    tensors.update({name: t for name, t in state.items() if ".penalties." not in name})
    adapter_files._complete(tensors)
    assert tensors.keys() == state.keys()
    head.load_state_dict({name.removeprefix("closed_form."): t for name, t in tensors.items()})
    assert head.penalties.known(1) == []
