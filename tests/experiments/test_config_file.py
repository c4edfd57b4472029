"""A run from a TOML file, and the file that a run leaves."""

import dataclasses
import json
import sys

import pytest

from experiments import run as command
from experiments.arguments import Arguments
from experiments.methods import METHODS
from experiments.options.config_file import read_config, write_config
from experiments.recipes import read_toml
from experiments.resolve import resolve


@pytest.fixture
def asked(monkeypatch):
    """The arguments that the command line makes of these words."""

    def ask(*words):
        found = []
        monkeypatch.setattr(command, "run", lambda arguments, **how: found.append(arguments))
        monkeypatch.setattr(sys, "argv", ["run", *map(str, words)])
        command.main()
        return found[0]

    return ask


@pytest.mark.parametrize("recipe", ["default", "paper", "reference"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_run_writes_makes_the_run_again(method, recipe, asked, tmp_path):
    resolved = resolve(Arguments("digits", method=method, recipe=recipe, seed=3, output="out"))
    write_config(tmp_path / "config.toml", resolved.values())
    again = resolve(asked("--config", tmp_path / "config.toml", "--output", "out"))
    assert again.config == resolved.config
    assert again.method == resolved.method
    assert again.values() == resolved.values()
    assert dataclasses.replace(again.arguments, settings={}) == dataclasses.replace(resolved.arguments, settings={})


@pytest.mark.parametrize(
    "settings", [{"sdlora.rank": "10,2:8"}, {"sdlora.targets": "blocks.*.mlp.fc1,blocks.0.mlp.fc2"}]
)
def test_settings_that_are_given_as_text(settings, asked, tmp_path):
    resolved = resolve(Arguments("digits", settings=settings))
    write_config(tmp_path / "config.toml", resolved.values())
    assert resolve(asked("--config", tmp_path / "config.toml")).config == resolved.config


def test_every_run_leaves_its_configuration(finished, asked, monkeypatch, capsys):
    results, output = finished
    values = read_config(str(output / "config.toml"))
    assert values["sdlora.expansion"] == 50
    assert values["sdlora.held_out"] == results["config"]["held_out"]
    assert "output" not in values
    given = asked("--config", output / "config.toml", "--output", output)
    monkeypatch.undo()
    assert json.loads(json.dumps(command.run(given)))["acc"] == results["acc"]  # it is the run that has finished there
    assert "this run has finished" in capsys.readouterr().out


def test_the_command_line_comes_before_the_file(asked, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('dataset = "digits"\nepochs = 3\nsdlora.rank = 4\n[ewc]\nweight = 2.0\n')
    assert asked("--config", path, "--epochs", 2, "--quiet") == Arguments(
        "digits", epochs=2, settings={"sdlora.rank": 4, "ewc.weight": 2.0}
    )
    path.write_text("epochs = 3\n")
    assert asked("omniglot", f"--config={path}") == Arguments("omniglot", epochs=3)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (None, [], "there is no such file"),
        ("epochs 3", [], "not readable as TOML"),
        ("epoch = 3", [], "run.toml: unknown option 'epoch'; did you mean epochs"),
        ("lr = 0.1", [], "run.toml: unknown option 'lr': write learning_rate"),
        ('epochs = "many"', [], "expected a whole number"),
        ("epochs = 3", [], "dataset"),
        (
            'dataset = "digits"\nrecipe = "paper"',
            ["--recipe", "reference"],
            "--recipe reference: .* is for recipe 'paper'",
        ),
        ('dataset = "digits"', ["omniglot"], "omniglot: .*run.toml is for dataset 'digits'"),
    ],
)
def test_what_a_file_cannot_be_is_one_line(text, words, message, asked, tmp_path):
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as error:
        asked("--config", path, *words)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_is_missing_behind_config(asked):
    with pytest.raises(SystemExit, match=r"^error: .*--config"):
        asked("digits", "--config")


def test_the_file_is_toml_and_has_no_open_option(tmp_path):
    write_config(tmp_path / "config.toml", {"dataset": "digits", "weights": None, "sdlora.rank": 4, "epochs": 2})
    assert read_toml(tmp_path / "config.toml") == {
        "dataset": "digits",
        "epochs": 2,
        "sdlora": {"rank": 4},
    }
