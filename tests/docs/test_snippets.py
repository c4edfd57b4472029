"""Every snippet of the README and the site is run.

Python is run on a small stream; commands are parsed and resolved, as far as they come without training. A block that is
tagged ``text`` is a listing; one of a notebook is run when the site is built.
"""

import importlib
import re
import shlex

import avalanche.evaluation.metrics
import avalanche.logging
import avalanche.training
import avalanche.training.plugins
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from torch.distributed.run import get_args_parser
from torch.utils.data import TensorDataset

import avalanche_sdlora
import avalanche_sdlora.metrics
from avalanche_sdlora import SDLoRAConfig, SDLoRAStrategy, create_backbone
from experiments.arguments import Arguments
from experiments.recipes import read_toml
from experiments.resolve import resolve
from experiments.run import COMMAND as RUN
from tests.docs.pages import PAGES, ROOT, blocks, prose

pytestmark = pytest.mark.filterwarnings("ignore")

#: Blocks without code, and those that the site's builder runs or draws.
NOT_CODE = ("text", "{toctree}", "{eval-rst}", "{include}", "{literalinclude}", "{code-cell}")

#: A snippet's own values, and those that a test can afford.
AFFORDABLE = {
    '"vit_base_patch16_224.augreg2_in21k_ft_in1k"': '"vit_micro_patch4_32.formula"',
    'device="cuda"': 'device="cpu"',
    "train_epochs=20": "train_epochs=1",
    "SDLoRAConfig(rank=10)": "SDLoRAConfig(rank=10, expansion=50, first_epochs=1)",
}

BLOCKS = [block for page in PAGES for block in blocks(page) if not block.language.startswith(NOT_CODE)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]


def commands(text):
    """The commands of a shell block, without comments, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def inline_commands():
    """The commands that stand within the text of the pages; the changelog names those of past versions."""
    for page in [page for page in PAGES if page.name != "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"(?<!`)`(python -m experiments\.[^`]*)`", text):
            yield pytest.param(shlex.split(" ".join(command.split())), id=f"{page.stem}: {command[:60]}")


INLINE = list(inline_commands())


def test_every_block_says_what_it_is():
    print(
        f"snippets of Python run: {len(PYTHON)}, blocks of commands: {len(SHELL)}, "
        f"commands in text: {len(INLINE)}, not run: {len(BLOCKS) - len(PYTHON) - len(SHELL)}"
    )
    assert {block.language for block in BLOCKS} == {"python", "sh"}, [str(b) for b in BLOCKS]
    assert len(PYTHON) > 8
    assert len(SHELL) > 6
    assert all("    python" not in prose(page) for page in PAGES)


@pytest.fixture(scope="module")
def benchmark():
    torch.manual_seed(0)
    labels = torch.arange(6).repeat_interleave(8)
    images = torch.randn(48, 3, 32, 32) + labels[:, None, None, None]
    return nc_benchmark(TensorDataset(images, labels), TensorDataset(images, labels), 3, task_labels=False, seed=0)


@pytest.fixture(scope="module")
def trained(benchmark):
    config = SDLoRAConfig(rank=2, head="linear", path=None, later_path=None, first_epochs=1)
    strategy = SDLoRAStrategy("vit_micro_patch4_32.formula", config=config, train_mb_size=8, evaluator=None)
    strategy.train(benchmark.train_stream)
    return strategy.model


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_snippets_of_python(block, benchmark, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vit = create_backbone("vit_micro_patch4_32.formula")
    config = SDLoRAConfig(head="linear", first_epochs=1)
    world = {
        **{name: getattr(avalanche_sdlora, name) for name in avalanche_sdlora.__all__},
        **vars(avalanche.training.plugins) | vars(avalanche.evaluation.metrics) | vars(avalanche.logging),
        **{name: getattr(avalanche.training, name) for name in ("Naive", "Replay")},
        **{"torch": torch, "SGD": torch.optim.SGD, "CrossEntropyLoss": torch.nn.CrossEntropyLoss},
        **{name: getattr(avalanche_sdlora, name) for name in ("LwFPlugin", "OLoRAPlugin", "Checkpoint")},
        "benchmark": benchmark,
        "evaluator": avalanche.training.plugins.EvaluationPlugin(loggers=[]),
        "vit": vit,
        "strategy": SDLoRAStrategy(vit, config=config, train_mb_size=16, evaluator=None)
        if re.search(r"(?<!= )\bstrategy\.|\(strategy", block.text)
        else None,
        "model": trained,
        "backbone": create_backbone("vit_micro_patch4_32.formula"),
        "images": torch.randn(2, 3, 32, 32),
        "names": [str(label) for label in range(6)],
    }
    text = block.text
    for own, affordable in AFFORDABLE.items():
        text = text.replace(own, affordable)
    exec(compile(text, str(block), "exec"), world)


def check_command(words):
    """Refuse a command that would not get as far as its work."""
    program, *rest = words
    if program == "make":
        targets = set(re.findall(r"^(\w+)(?: \w+)*:", (ROOT / "Makefile").read_text(), re.MULTILINE))
        targets |= {
            name for line in re.findall(r"^([\w ]+):", (ROOT / "Makefile").read_text(), re.M) for name in line.split()
        }
        assert set(rest) <= targets, words
    elif program == "pip":
        extras = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
        assert rest[0] == "install"
        for named in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            assert set(named.split(",")) <= extras.keys(), words
    elif program == "torchrun":
        options = get_args_parser().parse_args(rest)
        if options.module:
            check_module(options.training_script, options.training_script_args)
    elif program == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:])
    elif program == "tensorboard":
        assert rest[0] == "--logdir"
    else:
        assert program == "python", f"what is {program}?"
        assert (ROOT / rest[0]).is_file(), words


PLACEHOLDERS = {"DATASET": "digits", "DATASET...": "digits", "STREAM": "digits", "NAME": "methods"}


def check_module(module, words):
    """Parse what a module is given, and resolve it where it is a run."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    words = [
        "digits" if before in ("experiments.recipe", "experiments.run") and word == "methods" else word
        for before, word in zip([module, *words], words)
    ]
    if not module.startswith("experiments."):
        importlib.import_module(module)
        return
    found = importlib.import_module(module)
    command = getattr(found, "COMMAND", None)
    if command is None and hasattr(found, "__path__"):
        command = getattr(importlib.import_module(f"{module}.__main__"), "COMMAND", None)
    if command is not None and words:
        given = command.parse(words, known=("dataset",) if "--config" in words else ())
        if command is RUN:
            given.pop("device", None)  # GPUs are not everywhere
            if given.pop("config", None) is None:  # a file that no run has written yet
                resolve(Arguments.from_flat(given))


@pytest.mark.parametrize(
    "words", [pytest.param(w, id=f"{b}: {' '.join(w)[:50]}") for b in SHELL for w in commands(b.text)]
)
def test_commands_of_blocks(words):
    check_command(words)


@pytest.mark.parametrize("words", INLINE)
def test_commands_in_text(words):
    check_command(words)


def test_a_wrong_command_would_be_found():
    with pytest.raises(ValueError, match="unknown option --epoch;"):
        check_command(["python", "-m", "experiments.run", "digits", "--epoch", "2"])
    with pytest.raises(AssertionError):
        check_command(["make", "everything"])
