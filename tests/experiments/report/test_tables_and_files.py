"""A report shows every number, and a file on disk is whole whatever happens."""

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from avalanche_sdlora import files
from avalanche_sdlora.metrics import AccuracyMatrix
from experiments import results
from experiments.terminal import tables

MATRIX = AccuracyMatrix.from_rows([[91.25], [62.5, 83.75], [70.0, 40.5, 100.0]], [10, 10, 20])


def _printed(*args, width=100):
    out = io.StringIO()
    tables.print_report(*args, console=Console(file=out, width=width))
    return out.getvalue()


def test_the_tables_show_method_and_baselines_side_by_side():
    text = _printed("SD-LoRA [rr]", MATRIX, {"nearest class mean": {"acc": 55.5}, "frozen": MATRIX})
    for shown in (
        "SD-LoRA [rr]",
        "91.2",
        "83.8",
        "100.0",
        "nearest class mean",
        "55.50",
        "frozen",
        f"{MATRIX.pooled_accuracy():.2f}",
    ):
        assert shown in text
    for column in ("Acc", "AAA", "pooled", "forgetting", "BWT"):
        assert column in text


def test_parameters_are_told_below_the_table():
    out = io.StringIO()
    tables.print_report("SD-LoRA", MATRIX, parameters={"kept": 98620}, console=Console(file=out, width=100))
    assert out.getvalue().splitlines()[-1] == "parameters: kept 98,620"


def test_a_long_stream_fits_a_narrow_terminal():
    rows = [[10.0 + j for j in range(i + 1)] for i in range(20)]
    text = _printed("SD-LoRA", AccuracyMatrix.from_rows(rows, [1] * 20), width=80)
    assert "…" not in text
    assert " ".join(str(10 + j) for j in range(20)) in " ".join(text.split())


def test_a_misspelt_number_is_refused():
    with pytest.raises(ValueError, match="no column for Acc"):
        _printed("SD-LoRA", MATRIX, {"frozen": {"Acc": 1.0}})


def test_json_comes_back_as_written(tmp_path):
    path = tmp_path / "new folder" / "result.json"
    results.write_json(path, {"summary": MATRIX.summary(), "rows": MATRIX.rows()})
    assert json.loads(path.read_text()) == {"summary": MATRIX.summary(), "rows": MATRIX.rows()}
    results.write_json(path, {"n": np.int64(3), "x": np.float32(0.5), "a": np.arange(2), "p": Path("a")})
    assert json.loads(path.read_text()) == {"n": 3, "x": 0.5, "a": [0, 1], "p": "a"}
    assert os.listdir(path.parent) == ["result.json"]


def _fail(*args):
    raise OSError("disk full")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "result.json"
    results.write_json(path, {"old": 1})
    monkeypatch.setattr(files.os, step, _fail)
    with pytest.raises(OSError, match="disk full"):
        results.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize(
    ("data", "error"), [(math.nan, ValueError), (np.float32("inf"), ValueError), ({1, 2}, TypeError)]
)
def test_what_json_cannot_say_leaves_the_old_file(tmp_path, data, error):
    path = tmp_path / "result.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(error):
        results.write_json(path, {"begun": [1] * 1000, "then": data})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_environment_is_told_without_names_of_machines(monkeypatch):
    told = results.environment()
    json.dumps(told, allow_nan=False)
    assert {"python", "avalanche-lib", "torch", "timm", "torchvision", "numpy", "avalanche-sdlora"} == set(
        told["versions"]
    )
    assert told["threads"] >= 1
    assert os.uname().nodename not in json.dumps(told)
    monkeypatch.setattr(results, "_PACKAGES", ("surely-not-installed",))
    assert results.environment()["versions"]["surely-not-installed"] is None
