"""The speed benchmark runs and counts what it says; how fast anything is, no test asks."""

import pytest
import torch

from experiments.studies.peak_memory import PeakMemory
from experiments.studies.speed import Arguments, measure


@pytest.mark.slow
def test_every_row_is_measured():
    arguments = Arguments("vit_micro_patch4_32", 32, 2, tasks=[1, 3], branch_tasks=[2], rank=2, repeats=1)
    rows = {row["name"]: row for row in measure(arguments)["rows"]}
    assert {"branches, 2 tasks", "this library, 1 tasks", "this library, 3 tasks"} < set(rows)
    assert rows["bound: frozen backbone, head"]["step_ratio"] == 1
    assert all(row["step_ms"] > 0 and row["peak_mb"] > 0 for row in rows.values())
    one, three = (rows[f"this library, {t} tasks"]["peak_mb"] for t in (1, 3))
    assert three < 1.05 * one


def test_peak_memory_counts_what_lives_at_once():
    with PeakMemory() as memory:
        for _ in range(3):
            a = torch.ones(1000)  # 4000 bytes, and again 4000 for the sum
            b = a + a
            c = b.view(10, 100)  # a view is not counted
            del a, b, c
    assert 8000 <= memory.peak < 13000
    assert memory.now == 0
