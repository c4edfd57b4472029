"""What only ``--figures all`` measures leaves the model as it was, and agrees with what the model itself does."""

import dataclasses

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from torch.utils.data import TensorDataset

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.adapter.geometry import Geometry
from avalanche_sdlora.metrics import experience_accuracies
from avalanche_sdlora.metrics.solutions import Solutions
from experiments.costly import STEPS, Costly, HeadSources, path, solution
from tests.common import MLP, adapted_mlp, points_stream, snapshot, strategy_for, tiny_vit

CLOSED = dataclasses.replace(MLP, head="lda", drift="none")


def trained(config, experiences=2):
    """A strategy after some experiences, the solutions of them, the accuracies by row, and what figures all found."""
    solutions, stream, rows, notes = Solutions(), points_stream(experiences=5), [], {}
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), solutions, loggers=[])
    strategy = strategy_for(config=config, evaluator=evaluator, train_epochs=2)
    train, test = stream.train_stream[:experiences], stream.test_stream[:experiences]
    costly = Costly(strategy, train, test, 0, notes)
    for i in range(experiences):
        strategy.train(train[i])
        rows.append(experience_accuracies(strategy.eval(test[: i + 1])))
        costly.after(i + 1, solutions.solutions)
    return strategy, solutions, rows, costly.results(rows)


def test_other_solutions_are_those_of_their_sizes_and_go_again():
    model = adapted_mlp(experiences=2)
    x, before = torch.randn(4, 8), snapshot(model)
    now = Geometry.of(model.backbone).sizes
    with torch.no_grad():
        plain, adapted = (model.eval().features(x) for _ in range(2))
        with solution(model.backbone, torch.zeros_like(now)):
            pretrained = model.features(x)
        with solution(model.backbone, now):
            same = model.features(x)
    assert torch.equal(plain, adapted)
    torch.testing.assert_close(same, adapted)
    assert not torch.allclose(pretrained, adapted)
    bare = adapted_mlp(experiences=0).eval()
    torch.testing.assert_close(pretrained, bare.features(x).detach())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("magnitudes", ["shared", "per_projection"])
def test_the_path_ends_where_the_model_is(magnitudes):
    config = dataclasses.replace(MLP, magnitudes=magnitudes)
    strategy, solutions, _, found = trained(config)
    stream = points_stream().test_stream[:2]
    again = path(strategy, solutions.solutions[0], stream, 0)
    assert again == found["path"]
    assert again["steps"] == list(STEPS)
    model = strategy.model.eval()
    for j, accuracy in enumerate(again["accuracy"][-1]):
        x = torch.stack([sample[0] for sample in stream[j].dataset])
        y = torch.tensor([sample[1] for sample in stream[j].dataset])
        classes = torch.tensor(sorted(stream[j].classes_in_this_experience))
        right = classes[model.head(model.features(x))[:, classes].argmax(1)] == y
        assert accuracy == pytest.approx(100 * float(right.double().mean()))


def test_a_run_whose_head_reads_several_blocks_has_all_figures(monkeypatch):
    monkeypatch.setattr("avalanche_sdlora.heads.second_look.helped", lambda *features: True)  # or there is no path
    labels = torch.arange(4).repeat_interleave(6)
    data = TensorDataset(torch.randn(24, 3, 32, 32), labels)
    stream = nc_benchmark(data, data, 2, task_labels=False, shuffle=False)
    config = SDLoRAConfig(rank=2, expansion=20, readout="layers", first_epochs=1)
    solutions, notes = Solutions(), {}
    strategy = strategy_for(tiny_vit(depth=4), config, evaluator=EvaluationPlugin(solutions, loggers=[]))
    costly = Costly(strategy, stream.train_stream, stream.test_stream, 0, notes)
    for i, experience in enumerate(stream.train_stream):
        strategy.train(experience)
        strategy.eval(stream.test_stream[: i + 1])
        costly.after(i + 1, solutions.solutions)
    found = costly.results([[100.0], [100.0, 100.0]])
    assert len(found["path"]["accuracy"]) == len(STEPS)
    assert found["heads"].keys() == {"frozen", "none", "linear", "oracle"}


def test_the_stale_head_is_the_model_s_own_where_it_does_not_follow():
    _, _, rows, found = trained(CLOSED)
    heads = found["heads"]
    assert heads["none"]["accuracy_matrix"] == rows
    assert heads["oracle"]["accuracy_matrix"][:-1] == [None]
    assert "linear" not in heads
    assert len(heads["frozen"]["accuracy_matrix"]) == 2


def test_a_stale_head_beside_one_that_follows_gathers_what_a_stale_model_would():
    stale = trained(CLOSED)[2]
    _, _, rows, found = trained(dataclasses.replace(CLOSED, drift="linear"))
    assert found["heads"]["linear"]["accuracy_matrix"] == rows
    for row, other in zip(found["heads"]["none"]["accuracy_matrix"], stale):
        assert row == pytest.approx(other)


def test_a_linear_head_has_no_sources():
    assert set(trained(MLP)[3]) == {"path"}


def test_frozen_and_oracle_agree_where_nothing_moves():
    stream = points_stream().train_stream[:2], points_stream().test_stream[:2]
    strategy = strategy_for(config=dataclasses.replace(CLOSED, targets=()), evaluator=None)
    heads = HeadSources(strategy, *stream, 0)
    assert heads.oracle() == pytest.approx(heads.frozen()[-1])
