"""A comparison runs what is missing, refuses what does not belong together, and its statistics are right."""

import csv
import dataclasses
import json
import math
import pickle
import sys

import pytest
from PIL import Image

from avalanche_sdlora.metrics import AccuracyMatrix
from experiments.compare import __main__ as compare
from experiments.compare.cluster import CellJob, parse_settings
from experiments.compare.folder import collect, remember_order
from experiments.compare.grid import GRIDS, Cell, plan, read_grid
from experiments.compare.tables import write_comparison
from experiments.finished import material, material_of
from experiments.results import environment
from experiments.summary import Estimate, summarize


def finish(cell, acc, baseline=90.0):
    """Writes what a run of ``cell`` would have: two tasks, the first learned wholly."""
    matrix = AccuracyMatrix.from_rows([[100.0], [acc, acc]], [10, 10])
    frozen = AccuracyMatrix.from_rows([[baseline], [baseline, baseline]], [10, 10])
    results = {
        "accuracy_matrix": matrix.rows(),
        **matrix.summary(),
        "baselines": {"nearest_class_mean": frozen.summary() | {"accuracy_matrix": frozen.rows()}}
        if cell.arguments.baselines
        else {},
        "parameters": [{"kept": 5}, {"kept": 10}],
        "seconds": {"train": 2.0, "evaluate": 1.0, "total": 9.0},
        "test_samples": [10, 10],
        "seed": cell.arguments.seed,
        "method": cell.resolved.method.label,
        "environment": environment(),
        "arguments": cell.arguments.flat(),
        "config": cell.resolved.described(),
    }
    cell.folder.mkdir(parents=True)
    (cell.folder / "results.json").write_text(json.dumps(results))


def cells_of(folder, seeds=(0,), methods=None, **overrides):
    return plan(["digits"], methods or {"one": {}, "two": {"sdlora.rank": 4}}, seeds, folder, overrides)


def test_mean_and_standard_error():
    assert Estimate.of([1.0, 2.0, 3.0]) == Estimate(2.0, pytest.approx(1 / math.sqrt(3)))
    assert Estimate.of([4.0]) == Estimate(4.0, None)
    assert Estimate.of([]) is None


def test_differences_are_paired_by_seed_and_every_number_reaches_the_files(tmp_path):
    cells = cells_of(tmp_path, seeds=(0, 1, 2))
    for cell, acc in zip(cells, (50.0, 51.0, 60.0, 61.5, 70.0, 70.5)):
        finish(cell, acc)
    remember_order(tmp_path, ["digits"], ["one", "two"])
    rows = {row.method: row for row in write_comparison(tmp_path)}
    assert list(rows) == ["one", "two", "nearest class mean"]
    assert rows["one"].differences["acc"] is None
    assert rows["two"].values["acc"] == Estimate(61.0, pytest.approx(5.635, abs=1e-3))
    assert rows["two"].differences["acc"] == Estimate(1.0, pytest.approx(0.5 / math.sqrt(3)))
    assert rows["nearest class mean"].seeds == [0, 1, 2]
    text = (tmp_path / "comparison.md").read_text()
    assert "| two | 3 | 61.0 ± 5.6 | 80.5 ± 2.8 | 39.0 ± 5.6 | **+1.0 ± 0.3** | **+0.5 ± 0.1** |  | 10 | 3 |" in text
    with open(tmp_path / "comparison.csv", newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["two"]["acc_to_first_se"]) == rows["two"].differences["acc"].error
    assert table["two"]["seeds"] == "0 1 2"
    assert "to the first" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_seeds_that_one_method_lacks_do_not_enter_its_difference(tmp_path):
    cells = cells_of(tmp_path, seeds=(0, 1))
    for cell, acc in zip(cells, (50.0, 60.0, 90.0)):
        finish(cell, acc)
    rows = summarize(collect(tmp_path))
    assert rows[1].differences["acc"] == Estimate(10.0, None)


def test_methods_are_shown_in_the_order_they_were_first_asked_for(tmp_path):
    for cell in cells_of(tmp_path, methods={"z": {}, "a": {}, "m": {}}):
        finish(cell, 50.0)
    remember_order(tmp_path, ["digits"], ["z", "m"])
    remember_order(tmp_path, ["digits"], ["a", "z"])
    assert list(collect(tmp_path)["digits"]) == ["z", "m", "a"]


def test_published_results_stand_beside_those_of_the_same_stream(tmp_path):
    (cell,) = plan(["cifar100"], {"one": {}}, [0], tmp_path, {})
    finish(cell, 50.0)
    path = cell.folder / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({**results, "accuracy_matrix": [[50.0] * (i + 1) for i in range(10)]}))
    (row,) = [row for row in summarize(collect(tmp_path)) if row.method == "published: SD-LoRA"]
    assert (row.kind, row.values["acc"], row.values["aaa"]) == ("published", Estimate(88.01), Estimate(92.54))


def test_results_of_other_arguments_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.resolve._check_device", lambda device: None)
    given = {"epochs": 1, "precision": "float32"}  # "auto" depends on the device
    (cell,) = cells_of(tmp_path, methods={"one": {}}, **given)
    finish(cell, 50.0)
    for same in ({"device": "cuda"}, {"workers": 2}, {"sdlora.rank": 10}, {"sdlora.boundary": "continuous"}):
        (again,) = cells_of(tmp_path, methods={"one": {}}, **given, **same)
        assert again.finished()["acc"] == 50.0
    for other, message in (
        ({"epochs": 2}, "epochs 1 there, 2 asked"),
        ({"epochs": 1, "sdlora.preset": "paper"}, "sdlora.boundary 'continuous' there, 'reset' asked"),
        ({"epochs": 1, "validation": 0.2}, "validation None there, 0.2 asked"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.compare(cells_of(tmp_path, methods={"one": {}}, **{**given, **other}), tmp_path)


def test_results_of_version_0_1_are_those_of_the_present_names(tmp_path):
    (cell,) = plan(["digits"], {"ewc": {"method": "ewc", "sdlora.rank": 4}}, [0], tmp_path, {})
    old = {name: value for name, value in cell.arguments.flat().items() if "." not in name}
    old |= {"rank": 4, "preset": "default", "rank_depth": None, "ewc_lambda": 1.0, "lwf_alpha": None}
    config = cell.resolved.config.to_dict()
    del config["drift"]  # a setting that was added later has its default
    assert material(old, {**config, "ewc_lambda": 1.0}) == material_of(cell.resolved)
    assert material(old, {**config, "ewc_lambda": 2.0}) != material_of(cell.resolved)


@pytest.mark.parametrize("grid", sorted(file.stem for file in GRIDS.glob("*.toml")))
def test_the_grids_can_be_run(grid):
    cells = plan(["digits", "cifar100"], read_grid(grid), [0], "folder", {"batch_size": 16})
    assert len({cell.folder for cell in cells}) == len(cells)
    assert len({json.dumps(material_of(cell.resolved), sort_keys=True) for cell in cells}) == len(cells)
    first = cells[0].method
    assert {cell.method for cell in cells if cell.arguments.baselines} == {first}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nepocs = 2", r"\[a\]: unknown setting 'epocs'; did you mean epochs"),
        ("[a]\nsdlora.rank_budget = 0.5", r"sdlora.rank_budget=0.5: expected a whole number"),
        ("[a]\nrank_budget = 20", r"\[a\]: unknown setting 'rank_budget': write sdlora.rank_budget"),
        ("[a]\newc_lambda = 2.0", r"unknown setting 'ewc_lambda': write ewc.weight"),
        ('["a/b"]\n', "'a/b': expected tables, named with letters"),
        ("a = 1", "'a': expected tables"),
    ],
)
def test_what_is_wrong_in_a_grid_is_named(text, message, tmp_path):
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_grid(str(tmp_path / "grid.toml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--grid", "varants"], "there are methods, recipes, relatives, variants.*did you mean variants"),
        (["digits", "--grid", "presets"], "this grid is now called recipes"),
        (["digits", "--preset", "paper"], "--preset: write --sdlora.preset"),
        (["digits", "--ouput", "x"], "--ouput; did you mean output"),
        (["digits", "--only", "none"], "the grid has default, paper, reference"),
        (["digits", "--recipe", "paper"], "default: the grid and the command line both set recipe"),
        (["digits", "--epochs", "0"], "digits, default: --epochs 0"),
        (["digits", "--seeds", "1", "1"], "each only once"),
        (["digits", "--jobs", "0"], "--jobs 0: expected at least 1"),
        ([], "name the data sets to compare on"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["compare", *arguments, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        compare.main()
    assert not (tmp_path / "out").exists()


class FailingCell(Cell):
    """A run that fails at once, since its imports alone would take seconds."""

    def command(self):
        return [sys.executable, "-c", "raise SystemExit('error: no such image')"]


#: A run that takes little longer than its imports.
SHORT = {"tasks": 3, "epochs": 1, "backbone": "vit_micro_patch4_32.formula", "device": "cpu"}


@pytest.fixture
def few_images(tmp_path):
    """A folder of two training and two test images of three classes, as a data set of the command line."""
    for i in range(12):
        path = tmp_path / "images" / ("train", "test")[i % 2] / "abc"[i // 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(path)
    return f"folder:{tmp_path / 'images'}"


@pytest.mark.slow
def test_missing_cells_are_run_a_failure_stops_no_other_and_finished_ones_stay(
    few_images, tmp_path, monkeypatch, capsys
):
    grid, output = tmp_path / "grid.toml", tmp_path / "out"
    grid.write_text("[finished]\n[fails]\nsdlora.rank = 3\n[runs]\nsdlora.rank = 1\nsdlora.expansion = 50\n")
    done, _, missing = plan([few_images], read_grid(str(grid)), [3], output, SHORT)
    finish(done, 50.0)
    before = (done.folder / "results.json").stat().st_mtime_ns
    options = [f"--{name}={value}" for name, value in SHORT.items()]
    command = [
        "compare",
        few_images,
        "--grid",
        str(grid),
        "--seeds",
        "3",
        "--output",
        str(output),
        "--jobs",
        "2",
        *options,
    ]
    monkeypatch.setattr(sys, "argv", command)
    commands = {"fails": FailingCell.command, "runs": Cell.command}
    monkeypatch.setattr(Cell, "command", lambda self: commands[self.method](self))
    with pytest.raises(SystemExit, match=r"1 cells failed(?s:.*), fails, seed 3: error: no such image"):
        compare.main()
    assert "2 to run" in capsys.readouterr().out
    assert (done.folder / "results.json").stat().st_mtime_ns == before
    results = missing.finished()
    assert (results["arguments"]["seed"], results["config"]["rank"]) == (3, 1)
    table = (output / "comparison.md").read_text()
    assert "| runs | 1 |" in table
    assert "| fails |" not in table

    (output / "comparison.md").unlink()
    monkeypatch.setattr(sys, "argv", ["compare", "--report-only", str(output)])
    compare.main()
    assert (output / "comparison.md").read_text() == table


def fake_run(cell, threads, device=None):
    """Finishes a cell in the time of a run that was finished before, or fails."""
    if cell.method == "fails":
        raise RuntimeError("no such image")
    finish(cell, 50.0)
    (cell.folder / "device").write_text(str(device))


def on_gpu(cell):
    arguments = dataclasses.replace(cell.arguments, device="cuda")
    return dataclasses.replace(cell, resolved=dataclasses.replace(cell.resolved, arguments=arguments))


def test_jobs_are_spread_over_the_visible_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr("experiments.compare.grid.Cell.run", fake_run)
    cells = [on_gpu(cell) for cell in cells_of(tmp_path, seeds=range(4), methods={"one": {}}, device="cpu")]
    assert compare.compare(cells, tmp_path, jobs=2) == []
    assert {(cell.folder / "device").read_text() for cell in cells} == {"2", "5"}
    on_cpu = cells_of(tmp_path / "cpu", methods={"one": {}}, device="cpu")
    compare.compare(on_cpu, tmp_path, jobs=2)
    assert (on_cpu[0].folder / "device").read_text() == "None"


def test_a_run_sees_its_gpu_alone(tmp_path, monkeypatch):
    (cell,) = cells_of(tmp_path, methods={"one": {}})
    says = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    monkeypatch.setattr("experiments.compare.grid.Cell.command", lambda self: says)
    cell.run(1, "5")
    assert (cell.folder / "log.txt").read_text() == "5\n"


def test_parameters_of_submitit_are_read_as_numbers_and_texts(monkeypatch):
    assert parse_settings(["slurm_partition=gpu", "timeout_min=600"]) == {"slurm_partition": "gpu", "timeout_min": 600}
    with pytest.raises(ValueError, match="submit='gpu': expected NAME=VALUE"):
        parse_settings(["gpu"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["compare", "digits"])
    with pytest.raises(SystemExit, match="start it without torchrun"):
        compare.main()


@pytest.mark.slow
def test_cells_are_jobs_of_a_cluster_which_go_on_when_they_are_preempted(few_images, tmp_path):
    grid = {"good": {"sdlora.rank": 2, "sdlora.expansion": 50}, "bad": {"sdlora.rank": 3}}
    good, bad = plan([few_images], grid, [0], tmp_path, SHORT)
    bad = FailingCell(bad.stream, bad.method, bad.resolved)
    (failure,) = compare.compare([good, bad], tmp_path, jobs=2, launcher="local", settings={"timeout_min": 10})
    assert "bad, seed 0" in failure
    assert "error: no such image" in failure
    assert good.finished()["config"]["rank"] == 2
    again = pickle.loads(pickle.dumps(CellJob(good, 1).checkpoint()))
    assert again.function == CellJob(good, 1)
    with pytest.raises(ValueError, match="launcher='slurm'"):
        compare.compare([bad], tmp_path, launcher="slurm")
