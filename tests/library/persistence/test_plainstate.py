"""The state of plain objects: out of one program, through JSON, into another."""

import json
import random
from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_sdlora.persistence.plainstate import Putter, Taker

KEYS = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.tuples(st.integers(), st.text(max_size=2))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=20) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=40,
)


def through_json(value, live=None):
    taker = Taker((), ())
    tree = json.loads(json.dumps(taker.take(value, "value")))
    assert not taker.problems
    return Putter(taker.tensors).put(live, tree, "value")


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(value=PLAIN)
def test_plain_data_comes_back_as_it_was(value):
    assert repr(through_json(value)) == repr(value)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(value=st.sets(st.integers() | st.text(max_size=2)))
def test_sets_come_back(value):
    assert through_json([value, frozenset(value)]) == [value, frozenset(value)]


def test_long_lists_of_numbers_are_tensors():
    taker, numbers = Taker((), ()), [0.1 * i for i in range(1000)]
    assert len(json.dumps(taker.take([numbers, list(range(1000))], ""))) < 100
    assert through_json(numbers) == numbers
    assert through_json([2**70] * 20) == [2**70] * 20


def test_tensors_arrays_and_generators_come_back():
    generator, random_state = torch.Generator().manual_seed(3), random.getstate()
    value = {"t": torch.randn(3), "a": np.arange(3.0), "n": np.float32(0.1), "d": deque([1, 2], maxlen=2)}
    back = through_json(value)
    assert torch.equal(back["t"], value["t"])
    assert np.array_equal(back["a"], value["a"])
    assert (back["n"], back["n"].dtype, back["d"]) == (value["n"], np.float32, value["d"])
    other = torch.Generator()
    through_json(generator, other)
    assert torch.equal(torch.rand(2, generator=other), torch.rand(2, generator=generator))
    assert through_json(random_state) == random_state


class Counter:
    def __init__(self):
        self.n, self.by_task = 0, defaultdict(Counter)
        self.itself, self.of = self, print


def test_objects_are_changed_in_place():
    old, new = Counter(), Counter()
    old.n, old.by_task[7].n, old.by_task[7].by_task[8].n = 3, 4, 5
    made = new.by_task
    assert through_json(old, new) is new
    assert new.by_task is made
    assert (new.n, new.by_task[7].n, new.by_task[7].by_task[8].n) == (3, 4, 5)
    assert new.itself is new


@pytest.mark.parametrize(
    "value",
    [object(), torch.nn.Linear(1, 1), torch.nn.Parameter(torch.ones(1)), np.array([None]), {object(): 1}, iter([])],
)
def test_what_cannot_be_taken_is_reported(value):
    taker = Taker((), ())
    taker.take({"a": [value]}, "x")
    (path,) = taker.problems
    assert path.startswith("x['a'][0]")


def test_objects_that_a_fresh_program_does_not_have_are_reported():
    fresh = Taker((), ())
    fresh.take([Counter()], "x")
    later = Taker((), (), fresh.objects)
    later.take([Counter(), Counter()], "x")
    assert later.problems == {"x[1]": "Counter"}
    tree = Taker((), ()).take(Counter(), "x")
    with pytest.raises(ValueError, match="x: the state of an object was saved, but there is None now"):
        Putter({}).put(None, tree, "x")
