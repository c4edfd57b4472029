"""The options of a run: those of :class:`experiments.arguments.Arguments`, of SD-LoRA and of every method.

Every option is read from its home, a dataclass whose docstring describes its fields; nothing is listed again here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_type_hints

from docstring_parser import parse

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.near import did_you_mean
from experiments.arguments import NOT_IN_A_RECIPE, Arguments, Images, Machine, Training
from experiments.methods import METHODS, Method
from experiments.options.commandline import CommandLine, Option

ABOUT = "Train a method on the experiences of a data set, one after another, and report."

#: What ``--help`` shows.
EVERYDAY = (
    *("dataset", "recipe", "method", "backbone", "tasks", "epochs", "batch_size", "learning_rate"),
    *("sdlora.rank", "sdlora.head", "seed", "validation", "data", "output", "device"),
)

#: Settings of SDLoRAConfig that have a type of their own, and what text says instead.
_AS_TEXT: dict[str, tuple[Any, str]] = {
    "rank": (int | str, "Rank of each direction, or ranks with the tasks from which they hold: 10,4:8,8:6; or paper."),
    "targets": (str, "Layers that are adapted: attention.qv, or patterns of layer names, separated by commas."),
}

_PRESET = Option(
    "sdlora.preset",
    Literal["default", "paper", "reference"],
    "SDLoRAConfig that the settings of SD-LoRA start from: this library's own, the paper's, or the authors' code's.",
)
_RANK_DEPTH = Option("sdlora.rank_depth", str, "Factors of the rank along the depth of the backbone: 0.5,1.5.")

#: Options that had another name in version 0.1, beside those of SD-LoRA, which are now below ``sdlora.``.
_RENAMED = {
    "backbone_learning_rate": "finetune.learning_rate",
    "ewc_lambda": "ewc.weight",
    "lwf_alpha": "lwf.alpha",
    "replay_memory": "replay.memory",
    "olora_lambda": "olora.weight",
    "nlora_lambda": "nlora.weight",
    "clora_lambda": "clora.weight",
    "inflora_threshold": "inflora.threshold",
}


@cache
def run_options() -> Mapping[str, Option]:
    """Every option of a run by name."""
    options = [*options_of(Arguments, "What is trained on what", positional=("dataset",))]
    options += options_of(Training, "Training")
    options += options_of(Images, "Images")
    options += options_of(Machine, "Files and machine")
    title = "SD-LoRA; rank, targets, magnitude_init, head, drift and expansion hold for every method"
    sdlora = [_PRESET, _RANK_DEPTH, *options_of(SDLoRAConfig, "", prefix="sdlora.", as_text=_AS_TEXT)]
    options += [dataclasses.replace(option, title=title) for option in sdlora]
    for name, method in METHODS.items():
        options += options_of(method, f"{method.label} (--method {name})", prefix=f"{name}.")
    return {option.name: option for option in options}


def options_of(
    home: type[Any],
    title: str,
    *,
    prefix: str = "",
    positional: Collection[str] = (),
    as_text: Mapping[str, tuple[Any, str]] | None = None,
) -> Iterator[Option]:
    """The fields that a dataclass itself has, without inherited ones, as options.

    Args:
        home: The dataclass; its docstring describes the fields.
        title: Heading of the options in the help.
        prefix: Beginning of their names.
        positional: Fields that are given without a name.
        as_text: Type and description of fields whose own type no text can give.
    """
    hints = get_type_hints(home)
    about = {found.arg_name: _plain(found.description or "") for found in parse(home.__doc__ or "").params}
    for field in dataclasses.fields(home):
        if field.name not in inspect.get_annotations(home) or field.name == "settings":
            continue
        kind, text = (as_text or {}).get(field.name, (hints[field.name], about.get(field.name, "")))
        if issubclass(home, Method):
            text += f" Default: {field.default}."
        yield Option(prefix + field.name, kind, text, title, positional=field.name in positional)


def _plain(text: str) -> str:
    """A description of a docstring on one line and without its markup."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return " ".join(text.replace("``", "").split())


def renamed(name: str) -> str:
    """The present name of an option that had another one in version 0.1; any other name as it is."""
    return _RENAMED.get(name, f"sdlora.{name}" if f"sdlora.{name}" in run_options() else name)


def advice(name: str, dashes: str = "--") -> str | None:
    """What a message says of an option's old name, None of any other."""
    return None if renamed(name) == name else f": write {dashes}{renamed(name)}"


def check_settings(settings: Mapping[str, Any], where: str, *, allowed: Collection[str] = ()) -> None:
    """Refuse what is no setting of a run, or has another type.

    Args:
        settings: Values by name, as :meth:`Arguments.flat` gives them.
        where: Beginning of the message.
        allowed: Names that are accepted although a recipe may not have them.

    Raises:
        ValueError: With the name, the value and what is right.
    """
    known = run_options().keys() - NOT_IN_A_RECIPE.difference(allowed)
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{where}: unknown setting {name!r}{advice(name, '') or did_you_mean(name, known)}")
        if not run_options()[name].takes(value):
            raise ValueError(f"{where}: {run_options()[name].refusal(value)}")


def run_command(
    command: str, about: str, more: Collection[Option] = (), *, without: Collection[str] = (), closing: str = ""
) -> CommandLine:
    """A command with the options of a run.

    Args:
        command: What is typed.
        about: What it does.
        more: Options of its own, which come first and are shown by ``--help``.
        without: Options of a run that it does not have.
        closing: Lines below its help.
    """
    options = [*more, *(option for option in run_options().values() if option.name not in without)]
    return CommandLine(
        command,
        about,
        options,
        everyday=[*(option.name for option in more), *EVERYDAY],
        closing=closing,
        advice=lambda name: advice(name) if renamed(name) not in without else None,
    )
