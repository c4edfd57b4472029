"""Runs that are put where they can be published."""

import csv
import json
import shutil
import sys

import pytest

from experiments import export as command
from experiments.export import export


def test_results_and_scalars_of_a_run_without_a_path_of_the_machine(finished, tmp_path):
    results, run = finished
    (folder,) = export([str(run)], str(tmp_path / "published"))
    assert {path.name for path in folder.iterdir()} == {"results.json", "config.toml", "scalars.csv"}
    assert json.loads((folder / "results.json").read_text())["accuracy_matrix"] == results["accuracy_matrix"]
    assert str(run.parent) not in (folder / "results.json").read_text() + (folder / "config.toml").read_text()
    rows = list(csv.DictReader((folder / "scalars.csv").open()))
    assert {"Top1_Acc_Stream"} <= {row["tag"].partition("/")[0] for row in rows}
    assert all(float(row["value"]) == float(row["value"]) for row in rows)


def test_a_folder_of_images_is_published_by_its_name(finished, tmp_path):
    run = shutil.copytree(finished[1], tmp_path / "own")
    for file in (run / "results.json", run / "config.toml"):
        file.write_text(file.read_text().replace('"digits"', f'"folder:{tmp_path}/flowers"'))
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"images": f"images in {tmp_path}/flowers: 8"}))
    (folder,) = export([str(run)], str(tmp_path / "published"))
    for file in (folder / "results.json", folder / "config.toml"):
        assert '"folder:flowers"' in file.read_text()
        assert str(tmp_path) not in file.read_text()


def test_what_cannot_be_published_is_refused(finished, tmp_path, monkeypatch):
    _, run = finished
    with pytest.raises(ValueError, match="holds no results"):
        export([str(tmp_path)], str(tmp_path / "out"))
    twin = shutil.copytree(run, tmp_path / run.name)
    with pytest.raises(ValueError, match="another run is called"):
        export([str(run), str(twin)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(command, "LARGEST", 1000)
    with pytest.raises(ValueError, match="expected at most"):
        export([str(run)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["export", str(run)])
    with pytest.raises(SystemExit, match="error: --output: name the folder"):
        command.main()
