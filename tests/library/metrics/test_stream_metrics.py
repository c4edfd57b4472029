"""What a stream tells of itself: accuracies, predictions, distances of solutions, residuals, costs."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin

from avalanche_sdlora.adapter.geometry import Geometry
from avalanche_sdlora.adapter.linear import adapters_of, projections_of
from avalanche_sdlora.metrics import (
    AccuracyMatrix,
    cost_metrics,
    experience_accuracies,
    prediction_metrics,
    residual_metrics,
    solution_metrics,
    stream_metrics,
)
from avalanche_sdlora.metrics.calibration import expected_calibration_error
from avalanche_sdlora.metrics.solutions import frozen_norm, similarities
from tests.common import MLP, Recorder, adapted_mlp, learn_something, points_stream, strategy_for

METRICS = [stream_metrics, prediction_metrics, residual_metrics, solution_metrics, cost_metrics]


def train(config=MLP, experiences=3):
    """Train a stream with all metrics: the strategy, the metrics by name, what the logger saw, accuracies by row."""
    recorder, metrics = Recorder(), [make()[0] for make in METRICS]
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), *metrics, loggers=[recorder])
    strategy = strategy_for(config=config, evaluator=evaluator, train_epochs=2)
    stream, rows = points_stream(), []
    for i in range(experiences):
        strategy.train(stream.train_stream[i])
        rows.append(experience_accuracies(strategy.eval(stream.test_stream[: i + 2])))
    return strategy, dict(zip([make.__name__ for make in METRICS], metrics)), recorder.seen, rows


@pytest.fixture(scope="module")
def trained():
    return train()


def last(seen, name):
    return [v.value for v in seen if v.name == name][-1]


def test_the_summary_in_the_logs_is_that_of_the_accuracy_matrix(trained):
    _, metrics, seen, rows = trained
    expected = AccuracyMatrix.from_rows(rows, [40] * 4).summary()
    found = {"acc": "Mean_Acc", "aaa": "AAA", "pooled_acc": "Pooled_Acc", "bwt": "Backward_Transfer"}
    for key, name in {**found, "forgetting": "Forgetting"}.items():
        assert last(seen, f"{name}/eval_phase/test_stream") == pytest.approx(expected[key])
    assert metrics["stream_metrics"].rows == [pytest.approx(row[: i + 1]) for i, row in enumerate(rows)]


def test_a_row_that_was_not_measured_leaves_no_figure_that_needs_it():
    recorder, (metric,) = Recorder(), stream_metrics()
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), metric, loggers=[recorder])
    strategy, stream = strategy_for(evaluator=evaluator), points_stream()
    for i in range(3):
        strategy.train(stream.train_stream[i])
        if i != 1:
            row = experience_accuracies(strategy.eval(stream.test_stream[: i + 1]))
    assert metric.rows[1] is None
    assert metric.rows[2] == pytest.approx(row)
    assert metric.result().keys() == {"acc", "pooled_acc"}
    assert len([v for v in recorder.seen if v.name.startswith("AAA")]) == 1


def test_knowing_the_task_is_choosing_among_its_classes(trained):
    strategy, metrics, seen, rows = trained
    found = metrics["prediction_metrics"].found
    for j in range(3):
        data = points_stream().test_stream[j].dataset
        logits = strategy.model.eval()(torch.stack([sample[0] for sample in data]))
        labels = torch.tensor([sample[1] for sample in data])
        known = 2 * j + logits[:, 2 * j : 2 * j + 2].argmax(1)
        assert found[j].accuracy_with_task_known() == pytest.approx(100 * float((known == labels).double().mean()))
        assert found[j].accuracy() == pytest.approx(rows[-1][j])
    assert last(seen, "TaskKnown_Acc_Exp/eval_phase/test_stream/Exp000") == found[0].accuracy_with_task_known()


def test_calibration_error_is_the_gap_of_accuracy_and_confidence():
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    assert expected_calibration_error(p, torch.tensor([0, 0, 1, 0])) == pytest.approx((0.1 * 2 + 0.3 * 2) / 4)
    with pytest.raises(ValueError, match=r"expected \(n, classes\)"):
        expected_calibration_error(p, torch.tensor([0]))


def updates(model):
    """W - W0 of every projection, from the dense formula."""
    return [u.bank_B @ torch.diag(u.c[: len(u.bank_A)]) @ u.bank_A + u.B @ torch.diag(u.c[len(u.bank_A) :]) @ u.A
            for a in adapters_of(model).values() for u in a.updates()]  # fmt: skip


@pytest.mark.parametrize("magnitudes", ["shared", "per_projection"])
def test_distances_through_the_factors_are_those_of_the_weights(magnitudes):
    model, snapshots = adapted_mlp(dataclasses.replace(MLP, magnitudes=magnitudes), 1), []
    for k in range(1, 4):
        snapshots.append((Geometry.of(model.backbone), [w.detach() for w in updates(model)]))
        model.begin_experience({0: [2 * k, 2 * k + 1]})
        learn_something(model)
    now, weights = Geometry.of(model.backbone), updates(model)
    assert now.distance() == pytest.approx(float(torch.cat([w.detach().flatten() for w in weights]).norm()), rel=1e-4)
    for earlier, before in snapshots:
        apart = torch.cat([(a - b).detach().flatten() for a, b in zip(weights, before)]).norm()
        assert now.keeps(earlier.cosines)
        assert now.distance(earlier.sizes) == pytest.approx(float(apart), rel=1e-4)
    whole = torch.cat([a.base.weight.flatten() for a in adapters_of(model).values()]).norm()
    assert frozen_norm(model.backbone) == pytest.approx(float(whole), rel=1e-6)


def test_similarities_are_cosines_of_directions():
    model = adapted_mlp(experiences=2)
    (name, adapter), *_ = adapters_of(model.backbone).items()
    (p,) = projections_of(adapter)
    old, new = (p.bank_B @ p.bank_A).flatten(), (p.B @ p.A).flatten().detach()
    found = similarities(model.backbone)[name]
    assert found[0][1] == pytest.approx(abs(float(torch.cosine_similarity(old, new, dim=0))), abs=1e-5)
    assert found[1][1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "known"), [({}, True), ({"directions": "single"}, False), ({"rank_budget": 3}, False)]
)
def test_solutions_whose_directions_have_gone_are_not_made_up(changes, known):
    _, metrics, seen, _ = train(dataclasses.replace(MLP, **changes))
    solutions = metrics["solution_metrics"]
    assert [len(row) for row in solutions.distances] == [1, 2, 3]
    assert (solutions.distances[2][1] is not None) == known
    assert all(row[0] > 0 for row in solutions.distances)
    assert last(seen, "Distance/train_phase/train_stream/start") == solutions.distances[2][0]


def test_residuals_are_measured_at_powers_of_two_and_at_the_end(trained):
    _, metrics, seen, _ = trained
    records = metrics["residual_metrics"].records
    assert sorted({record[1] for record in records}) == [1, 2, 4, 8]
    assert {record[0] for record in records} == {1, 2}  # nothing to compare with in the first
    assert all(0 < record[3] <= 1 for record in records)
    positions = [v.x_plot for v in seen if v.name == "Residual/train_phase/train_stream/0"]
    assert positions == [9, 10, 12, 16, 17, 18, 20, 24]


def test_costs_add_up(trained):
    _, metrics, seen, _ = trained
    costs = metrics["cost_metrics"]
    shares = [v.value for v in seen if v.name.startswith("Time_Share")]
    assert sum(shares) == pytest.approx(3)
    assert len(costs.rates) == 3
    assert min(costs.rates) > 0
    assert costs.seconds["evaluation"] > 0
    assert last(seen, "Peak_Memory_MB/train_phase/train_stream") > 1
    assert costs.peaks.keys() == {"process"}
    if (statm := Path("/proc/self/statm")).exists():
        assert 1e6 * costs.peaks["process"] > 0.5 * int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
