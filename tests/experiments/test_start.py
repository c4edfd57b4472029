"""What a command needs is imported when it needs it, so that help and mistakes come at once."""

import pickle
import subprocess
import sys

import pytest

import avalanche_sdlora
import benchmarks

#: Imports that take seconds.
HEAVY = {"avalanche", "altair", "matplotlib", "pandas", "sklearn", "tensorboard", "timm", "torch", "torchvision"}

#: Command lines, and something that each must print.
COMMANDS = {
    "experiments.run --help": "usage:",
    "experiments.run --help all": "--inflora.threshold",
    "experiments.run digits --lr 1": "unknown option --lr: write --learning_rate",
    "experiments.run digits --epochs x": "expected a whole number",
    "experiments.run digit": "did you mean digits",
    "experiments.run digits --sdlora.rank 0": "expected an integer of at least 1",
    "experiments.run digits --ewc.weight 1": "not for --method sdlora",
    "experiments.run digits --recipe papr": "did you mean paper",
    "experiments.compare --help": "usage:",
    "experiments.compare digits --output none --grid methos": "did you mean methods",
    "experiments.predict --help": "usage:",
    "experiments.report --help": "usage:",
    "experiments.export --help": "usage:",
    "experiments.recipe nothing": "no recipe",
}

PROGRAM = """
import runpy, sys
for command in sys.argv[1:]:
    module, *sys.argv[1:] = command.split()
    print("command:", command)
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        print("ended with", end.code)
print("command:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_help_and_mistakes_import_nothing_that_takes_seconds():
    done = subprocess.run([sys.executable, "-c", PROGRAM, *COMMANDS], capture_output=True, text=True)
    _, *printed, imported = done.stdout.split("command: ")
    for command, text in zip(COMMANDS, printed, strict=True):
        assert COMMANDS[command] in text, text + done.stderr
    assert HEAVY.isdisjoint(imported.split())


@pytest.mark.parametrize("package", [avalanche_sdlora, benchmarks])
def test_every_name_of_a_package_is_there_when_it_is_asked_for(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        found = getattr(package, name)
        assert found is getattr(package, name)
        if isinstance(found, type):
            assert pickle.loads(pickle.dumps(found)) is found
    with pytest.raises(AttributeError, match="no attribute 'SDLoRa'"):
        package.SDLoRa  # noqa: B018
    assert {name for names in package._HOMES.values() for name in names} <= set(package.__all__)
    names = {}
    exec(f"from {package.__name__} import *", names)
    assert set(package.__all__) <= set(names)


def test_modules_of_the_library_need_no_import_of_their_own():
    program = "import avalanche_sdlora; print(avalanche_sdlora.near.__name__, avalanche_sdlora.heads.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "avalanche_sdlora.near avalanche_sdlora.heads\n"
