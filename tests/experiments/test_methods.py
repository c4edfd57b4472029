"""The methods of the command line: each in the same loop, with its own settings, and joint training's single row."""

import json
import sys

import pytest
import torch

from avalanche_sdlora.learned import learned_state
from avalanche_sdlora.metrics import AccuracyMatrix
from experiments.arguments import Arguments
from experiments.baselines import frozen_baselines
from experiments.compare.folder import remember_order
from experiments.compare.grid import plan, read_grid
from experiments.compare.tables import write_comparison
from experiments.methods import METHODS, joined
from experiments.resolve import resolve
from experiments.results import environment, write_json
from experiments.run import main, run
from tests.common import image_stream, mlp, points_stream

QUICK = {"epochs": 1, "batch_size": 128, "tasks": 2, "baselines": False, "validation": 0.8, "image_size": 8}

SMALL = {"sdlora.rank": 2, "sdlora.targets": "*", "sdlora.expansion": 50}


def made(name, settings=None, **given):
    """Strategy of a method on an MLP, and the resolved run."""
    accepts = METHODS[name].accepts
    small = {key: value for key, value in SMALL.items() if accepts is None or key.partition(".")[2] in accepts}
    resolved = resolve(Arguments("digits", method=name, settings={**small, **(settings or {})}, **given))
    model = resolved.method.model(mlp(), resolved.config)
    return resolved.method.strategy(model, resolved.arguments, train_mb_size=10, evaluator=None), resolved


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_a_stream_in_the_same_loop(name):
    strategy, resolved = made(name)
    stream = points_stream().train_stream
    for experience in joined(stream) if METHODS[name].joint else stream:
        strategy.train(experience, eval_streams=[])
    assert strategy.model.head.classes() == list(range(10))
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
    assert json.loads(json.dumps(resolved.described()))


def test_full_fine_tuning_is_part_of_what_was_learned():
    strategy, _ = made("finetune")
    assert {"backbone.0.weight", "backbone.2.bias"} <= learned_state(strategy.model).keys()
    assert not any(name.startswith("backbone.") for name in learned_state(made("probe")[0].model))


def test_full_fine_tuning_trains_the_backbone_at_a_rate_of_its_own():
    strategy, resolved = made("finetune", {"finetune.learning_rate": 1e-5})
    rates = {group["name"]: group["lr"] for group in strategy.optimizer.param_groups}
    assert rates["directions"] == 1e-5
    assert rates["head"] == resolved.arguments.learning_rate
    with pytest.raises(ValueError, match=r"finetune\.learning_rate=0"):
        made("finetune", {"finetune.learning_rate": 0.0})


def test_the_head_may_have_a_learning_rate_of_its_own():
    strategy, resolved = made("sdlora", head_learning_rate=0.5)
    rate = resolved.arguments.learning_rate
    rates = {group["name"]: group["lr"] for group in strategy.optimizer.param_groups}
    assert rates == {"directions": rate, "magnitudes": rate, "head": 0.5}


def test_methods_beside_sd_lora_train_as_published_unless_told_otherwise():
    for name in METHODS:
        strategy, resolved = made(name)
        config = strategy.model.config
        published = (config.head, config.path, config.later_path, config.first_epochs) == ("linear", None, None, 1)
        assert published == (name not in ("sdlora", "ranpac"))  # whose head is in closed form
        assert resolved.arguments.learning_rate == (0.05 if name == "sdlora" else 0.01)
    assert made("lora", {"sdlora.head": "lda"})[0].model.config.head == "lda"
    strategy, resolved = made("sdlora", {"sdlora.preset": "reference"})
    assert resolved.arguments.learning_rate == 0.01


def test_joint_training_sees_every_sample_of_every_class_at_once():
    stream = points_stream().train_stream
    (whole,) = joined(stream)
    assert len(whole.dataset) == sum(len(e.dataset) for e in stream)
    assert set(whole.dataset.targets) == set(range(10))


@pytest.mark.slow
def test_a_joint_run_measures_its_end_only(tmp_path):
    results = run(Arguments("digits", method="joint", output=str(tmp_path / "joint"), **QUICK))
    assert results["accuracy_matrix"][0] is None
    assert len(results["accuracy_matrix"][1]) == 2
    assert results["acc"] == pytest.approx(sum(results["accuracy_matrix"][1]) / 2)
    assert not {"aaa", "forgetting", "bwt"} & results.keys()
    assert len(results["parameters"]) == 1
    assert (tmp_path / "joint" / "figures" / "accuracy_matrix.svg").exists()


def test_joint_training_is_a_row_of_the_comparison_with_its_accuracy_only(tmp_path):
    rows = {"lora": [[90.0], [60.0, 80.0]], "sdlora": [[90.0], [70.0, 85.0]], "joint": [None, [80.0, 90.0]]}
    for method, accuracies in rows.items():
        matrix = AccuracyMatrix.from_rows(accuracies, [1, 1])
        resolved = resolve(Arguments("digits", method=method))
        results = {
            "accuracy_matrix": matrix.rows(),
            "test_samples": matrix.samples.tolist(),
            **matrix.summary(),
            **{"baselines": {}, "seed": 0, "method": resolved.method.label, "environment": environment()},
            **{"arguments": resolved.arguments.flat(), "config": resolved.described()},
        }
        write_json(tmp_path / "digits" / method / "seed0" / "results.json", results)
    remember_order(tmp_path, ["digits"], list(rows))
    found = {row.method: row for row in write_comparison(tmp_path)}
    assert found["joint"].values["acc"].mean == 85.0
    assert found["joint"].values["aaa"] is None
    assert found["joint"].differences["acc"].mean == 15.0
    assert found["joint"].differences["aaa"] is None
    assert [found[name].values["gap"].mean for name in rows] == [0, 50, 100]
    line = "| joint | 1 | 85.0 | not measured | not measured | +15.0 |  |"  # one seed has no error: nothing is bold
    assert line in (tmp_path / "comparison.md").read_text()


def test_missing_rows_of_an_accuracy_matrix_and_no_others():
    matrix = AccuracyMatrix.from_rows([None, [30.0, 50.0]], [1, 3])
    assert matrix.summary() == {"acc": 40.0, "pooled_acc": 45.0}
    assert matrix.rows() == [None, [30.0, 50.0]]
    for rows in ([[30.0], None], [[30.0], [float("nan"), 50.0]], [None]):
        with pytest.raises(ValueError, match="within 0 and 100"):
            AccuracyMatrix.from_rows(rows, [1, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "ecw"], "--method ecw: .*did you mean ewc"),
        (["--ewc.weight", "3"], "--ewc.weight 3.0: not for --method sdlora, but for ewc"),
        (["--method", "ewc", "--ewc.weight", "-3"], "--ewc.weight -3.0: expected a number of at least 0"),
        (
            ["--method", "olora", "--sdlora.boundary", "reset"],
            "--sdlora.boundary reset: not for --method olora, but for sdlora",
        ),
        (["--method", "inflora", "--inflora.threshold", "1.5"], "--inflora.threshold 1.5"),
        (["--method", "lora", "--sdlora.rank", "0"], "--sdlora.rank 0: "),
    ],
)
def test_settings_that_a_method_cannot_use_are_refused(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["run", "digits", *arguments, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        main()
    assert not (tmp_path / "out").exists()


def test_the_grid_has_every_method_and_all_its_cells_can_be_made(tmp_path):
    grid, near = read_grid("methods"), read_grid("relatives")
    assert {settings.get("method", "sdlora") for settings in (grid | near).values()} == set(METHODS)
    assert len(plan(["digits"], near, [0], tmp_path, {})) == len(near)
    cells = plan(["digits"], grid, [0], tmp_path, {"recipe": "reference"})  # whose preset is SD-LoRA's alone
    assert "ewc.weight" not in cells[0].arguments.settings
    assert next(c for c in cells if c.method == "replay").arguments.settings["replay.memory"] == 200


def test_closed_form_baselines_know_only_what_came_before():
    benchmark = image_stream()

    def features(x):
        return x.flatten(1)[:, :5].double()

    found = frozen_baselines(
        features, benchmark.train_stream, benchmark.train_stream, batch_size=3, device=torch.device("cpu")
    )
    assert list(found) == ["nearest_class_mean", "ridge"]
    data = [(features(x[None])[0], y) for e in benchmark.train_stream for x, y, *_ in e.dataset]
    x = torch.nn.functional.normalize(torch.stack([f for f, _ in data]), dim=1)
    y = torch.tensor([int(label) for _, label in data])
    means = torch.stack([torch.nn.functional.normalize(x[y == c].mean(0), dim=0) for c in range(4)])
    hits = ((x @ means.T).argmax(1) == y).double()
    assert found["nearest_class_mean"].average_accuracy() == pytest.approx(100 * float(hits.mean()))
    for matrix in found.values():
        assert [len(row) for row in matrix.rows()] == [1, 2]
