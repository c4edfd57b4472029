"""Accuracy is measured when somebody wants it, and what was not measured has no figure."""

import sys

import pytest

from experiments import run as command
from experiments.arguments import Arguments
from experiments.compare.tables import markdown
from experiments.figures import RUN_FIGURES
from experiments.finished import finished as finished_run
from experiments.outcome import show
from experiments.report.model_card import write_model_card
from experiments.report.one_run import overview
from experiments.resolve import resolve
from experiments.run import run
from experiments.summary import summarize


def stop(strategy):
    """Presses Ctrl-C before the third experience."""
    train = strategy.train

    def training(experience, **settings):
        if strategy.clock.train_exp_counter == 2:
            raise KeyboardInterrupt
        return train(experience, **settings)

    strategy.train = training


@pytest.fixture(scope="module")
def sparse(quick, tmp_path_factory):
    """A run that evaluates after every second task, is stopped in the third and continued; its results and folder."""
    output = tmp_path_factory.mktemp("sparse")
    arguments = Arguments("digits", output=str(output), evaluate=2, figures="none", **quick)
    with pytest.raises(KeyboardInterrupt):
        run(arguments, watch=stop)
    return run(arguments), output


def test_learning_does_not_depend_on_when_it_is_evaluated(sparse, finished):
    rows, every = sparse[0]["accuracy_matrix"], finished[0]["accuracy_matrix"]
    assert rows == [None, every[1], None, every[3], every[4]]
    for key in ("acc", "pooled_acc", "balanced_acc", "class_accuracy", "magnitudes"):
        assert sparse[0][key] == finished[0][key]


def test_what_was_not_measured_is_said_to_be_so_and_never_zero(sparse, capsys):
    results, output = sparse
    assert results["not_measured"] == ["aaa", "forgetting", "bwt"]
    assert not {"aaa", "forgetting", "bwt"} & results.keys()
    show(results)
    assert "-: not measured; nor are AAA, forgetting and BWT" in capsys.readouterr().out
    cards = {card["name"]: card["value"] for card in overview(results)["cards"]}
    assert cards["AAA"] == cards["forgetting"] == cards["BWT"] == "not measured"
    assert cards["Acc"] == f"{results['acc']:.1f}"
    assert all(figure.draw(results) is not None for figure in RUN_FIGURES[:4])
    write_model_card(output / "README.md", results)
    assert "| AAA and forgetting | not measured |" in (output / "README.md").read_text()
    table = markdown(summarize({"digits": {"sdlora": {0: results}}}))
    line = next(line for line in table.splitlines() if line.startswith("| sdlora"))
    assert line.split("|")[4:6] == [" not measured ", " not measured "]


def test_other_moments_are_another_run(sparse, quick):
    arguments = Arguments("digits", output=str(sparse[1]), evaluate="final", **quick)
    with pytest.raises(ValueError, match="evaluate 2 there, 'final' asked"):
        finished_run(resolve(arguments))


def test_the_moments(monkeypatch):
    def moments(evaluate):
        return [done for done in range(1, 8) if Arguments("digits", evaluate=evaluate).evaluates(done, 7)]

    assert moments("every") == list(range(1, 8))
    assert moments("final") == moments(10) == [7]
    assert moments(3) == [3, 6, 7]
    for wrong, said in (("0", "--evaluate 0: expected every, final, or"), ("last", "expected every, final or a wh")):
        monkeypatch.setattr(sys, "argv", ["run", "digits", "--evaluate", wrong])
        with pytest.raises(SystemExit, match=said):
            command.main()
