"""Options have one home and one name, and help has two levels."""

import dataclasses

import pytest

from avalanche_sdlora import SDLoRAConfig
from experiments.arguments import Arguments
from experiments.compare.__main__ import COMMAND as COMPARE
from experiments.methods import METHODS, SHARED
from experiments.options.commandline import CommandLine, Option
from experiments.options.run_options import EVERYDAY, run_options
from experiments.resolve import resolve
from experiments.run import COMMAND as RUN


def test_every_field_of_a_config_and_of_a_method_is_an_option():
    settings = {f"sdlora.{field.name}" for field in dataclasses.fields(SDLoRAConfig)}
    own = {f"{name}.{field.name}" for name, method in METHODS.items() for field in dataclasses.fields(method)}
    assert settings | own <= run_options().keys()
    assert {f"sdlora.{name}" for name in SHARED} | set(EVERYDAY) <= run_options().keys()
    assert all(option.about for option in run_options().values())


def test_flat_arguments_are_the_arguments():
    given = Arguments("digits", method="ewc", epochs=2, settings={"sdlora.rank": 4, "ewc.weight": 2.0})
    assert Arguments.from_flat(given.flat()) == given
    resolved = resolve(given).arguments
    assert resolve(resolved).arguments == resolved


@pytest.mark.parametrize("command", [RUN, COMPARE])
def test_help_fits_a_screen_and_all_of_it_names_every_option(command):
    short, everything = command.help(everything=False), command.help(everything=True)
    assert len(short.splitlines()) <= 40
    assert max(len(line) for line in [*short.splitlines(), *everything.splitlines()]) <= 80
    assert "--help all" in short
    assert all(option.usage.split()[0] in everything for option in command.options.values())
    assert "  " not in everything.splitlines()[0]
    words = everything.replace(",", " ").replace(";", " ").replace(".", " ").split()
    assert METHODS.keys() <= set(words)


def test_help_is_printed_and_nothing_is_run(capsys):
    for words, last in ((["digits", "--help"], "--sdlora.head"), (["--help", "all"], "--inflora.threshold")):
        with pytest.raises(SystemExit) as end:
            RUN.parse(words)
        assert end.value.code == 0
        assert last in capsys.readouterr().out


def test_only_what_was_given_is_returned_with_its_type():
    command = CommandLine(
        "command",
        "A command.",
        [
            Option("names", str, "Names.", positional=True, nargs="*"),
            Option("seeds", int, "Seeds.", nargs="+"),
            Option("report-only", str, "A folder."),
            Option("strict", bool, "Whether."),
            Option("quick", bool, "A flag.", nargs=0),
            Option("sdlora.rank", int | str, "A rank."),
        ],
    )
    assert command.parse([]) == {}
    given = command.parse(["a", "b", "--strict", "false", "--seeds", "1", "2", "--sdlora.rank=8", "--quick"])
    assert given == {"names": ["a", "b"], "strict": False, "seeds": [1, 2], "sdlora.rank": 8, "quick": True}
    given = command.parse(["--sdlora.rank", "10,4:8", "--report-only", "x"])
    assert given == {"sdlora.rank": "10,4:8", "report-only": "x"}
    for wrong, message in ((["--seeds", "a"], "seeds='a': expected a whole number"), (["--stric", "1"], "mean strict")):
        with pytest.raises(ValueError, match=message):
            command.parse(wrong)
