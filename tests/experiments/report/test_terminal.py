"""What a run says while it runs."""

import io
import logging
import re
import warnings

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from rich.console import Console

from experiments.terminal import progress as module
from experiments.terminal.log import logged, tell_warnings_plainly
from experiments.terminal.progress import Progress, competing_hits, duration
from tests.common import points_stream, strategy_for


def told(monkeypatch, terminal=False, quiet=False, plain=0.0):
    """What is printed during two experiences."""
    monkeypatch.setattr(module, "_PLAIN", plain)
    monkeypatch.setattr(module, "_LOOK", 0.0)
    out, stream = io.StringIO(), points_stream()
    console = Console(file=out, force_terminal=terminal, width=80)
    progress = Progress([40] * 5, 2, console=console, quiet=quiet)
    strategy = strategy_for(evaluator=EvaluationPlugin(loggers=[progress]), train_epochs=2)
    for i in range(2):
        strategy.train(stream.train_stream[i])
        strategy.eval(stream.test_stream[: i + 1])
    progress.close()
    return out.getvalue()


def test_a_file_gets_lines_and_no_carriage_returns(monkeypatch):
    text = told(monkeypatch)
    assert "\r" not in text
    assert "\x1b" not in text
    assert re.search(r"task 2 of 5 · epoch 1 of 2 · accuracy \d+ % · loss \d+\.\d{3} · \d+ images/s", text)
    assert re.search(r"^task 2 of 5: \d+\.\d % on its own and \d+\.\d % on all tasks so far, ", text, re.M)


def test_a_file_gets_a_line_for_each_experience_and_few_others(monkeypatch):
    lines = told(monkeypatch, plain=30.0).splitlines()
    assert len(lines) == 2
    assert all(re.match(r"task \d of 5: ", line) for line in lines)


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch):
    text = told(monkeypatch, terminal=True)
    assert "\x1b[2K" in text  # the line is erased


def test_a_narrow_terminal_loses_the_speed_and_not_the_time_left(monkeypatch):
    monkeypatch.setattr(Progress, "_left", lambda *_: " · 2 h 10 min left")
    assert re.search(r"task 2 of 5 · epoch 1 of 2 · 2 h 10 min left · accuracy \d+ % · loss ", told(monkeypatch))


def test_quiet_says_nothing(monkeypatch):
    assert told(monkeypatch, quiet=True) == ""


def test_only_classes_that_compete_count():
    class Strategy:
        mb_output, mb_y = torch.tensor([[9.0, 0.0, 1.0], [9.0, 1.0, 0.0]]), torch.tensor([2, 2])
        _criterion = type("Loss", (), {"current": torch.tensor([False, True, True])})

    assert competing_hits(Strategy) == 1


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (125, "2 min"), (7500, "2 h 05 min")])
def test_durations_are_told_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_warning_is_one_line_and_is_in_the_log(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        tell_warnings_plainly()
        with logged(tmp_path / "log.txt"):
            warnings.warn("one image cannot be read", stacklevel=1)
        warnings.warn("after the run", stacklevel=1)
    assert capsys.readouterr().err == "warning: one image cannot be read\nwarning: after the run\n"
    assert "UserWarning: one image cannot be read" in (tmp_path / "log.txt").read_text()


def test_a_failed_run_says_where_its_log_is(tmp_path, capsys):
    path = tmp_path / "log.txt"

    def fail():
        with logged(path):
            logging.getLogger("avalanche_sdlora").info("all was well")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert f"its log is {path}" in capsys.readouterr().err
    assert "all was well" in path.read_text()
    assert "Traceback" in path.read_text()
    assert logging.getLogger().handlers == [
        h for h in logging.getLogger().handlers if h.__class__ != logging.FileHandler
    ]
