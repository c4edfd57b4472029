"""The method's own numbers, as Avalanche's loggers receive them."""

import dataclasses

import pytest
import torch
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from avalanche_sdlora.metrics import magnitude_metrics, parameter_metrics, reduction_metrics
from tests.common import MLP, Recorder, mlp, points_stream, strategy_for


@pytest.fixture(scope="module")
def trained():
    """Three tasks of 4 iterations, and what the logger saw of them."""
    recorder = Recorder()
    metrics = [magnitude_metrics(), parameter_metrics(), reduction_metrics()]
    evaluator = EvaluationPlugin(*metrics, loggers=[recorder])
    strategy = strategy_for(config=dataclasses.replace(MLP, energy=0.9), evaluator=evaluator)
    strategy.train(points_stream().train_stream[:3])
    return strategy, recorder.seen


def curve(seen, name):
    return [(v.x_plot, v.value) for v in seen if v.name == name.replace("/", "/train_phase/train_stream/", 1)]


def test_magnitudes_draw_one_curve_a_direction(trained):
    strategy, seen = trained
    curves = [curve(seen, f"Magnitude/Direction{k:03d}") for k in range(1, 5)]
    assert [[x for x, _ in c] for c in curves] == [[4, 8, 12], [8, 12], [12], []]
    assert [c[-1][1] for c in curves[:3]] == strategy.model.magnitude_report()


def test_parameters_are_counted_from_the_tensors(trained):
    strategy, seen = trained
    model = strategy.model
    kept = [
        p for name, p in model.state_dict().items() if name.split(".")[-1] in ("A", "B", "bank_A", "bank_B", "alpha")
    ]
    kept += [model.head.weight, model.head.bias]
    assert curve(seen, "Parameters/kept")[-1] == (12, sum(t.numel() for t in kept))
    trained_in_first = 2 * (8 + 16) + 2 * (16 + 16) + 2 + 2 * 16 + 2
    assert curve(seen, "Parameters/trained")[0] == (4, trained_in_first)
    assert curve(seen, "Parameters/rank")[-1][1] <= 12
    assert model.parameter_report()["new"] == sum(len(p) * s for p, s in _current(model)) + 2


def _current(model):
    return [(m.A, m.A.shape[1] + len(m.B)) for m in model.modules() if hasattr(m, "bank_A")]


def test_reductions_show_residual_error_and_savings(trained):
    strategy, seen = trained
    records = strategy.model.reductions
    assert [x for x, _ in curve(seen, "Reduction/residual")] == [8, 12]
    assert curve(seen, "Reduction/error")[-1][1] == max(r.error for r in records) > 0
    assert curve(seen, "Reduction/parameters_saved")[-1][1] == sum(r.parameters_saved for r in records) > 0
    assert [value for _, value in curve(seen, "Reduction/absorbed")] == [0, 0, 0]


def test_another_model_is_refused_before_training():
    model = mlp()
    before = model[0].weight.clone()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        evaluator=EvaluationPlugin(magnitude_metrics(), loggers=[Recorder()]),
    )
    with pytest.raises(TypeError, match="reads an SDLoRAModel; the strategy's is a Sequential"):
        strategy.train(points_stream().train_stream)
    assert torch.equal(model[0].weight, before)
