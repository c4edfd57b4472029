"""The options of a run: those of :class:`experiments.arguments.Arguments`, of SD-LoRA and of every method.

Every option is read from its home, a dataclass whose docstring describes its fields; nothing is listed again here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.near import did_you_mean
from experiments.arguments import NOT_IN_A_RECIPE, Arguments, Images, Machine, Training
from experiments.methods import METHODS, Method
from experiments.options.commandline import CommandLine, Option

ABOUT = "Train a method on the experiences of a data set, one after another, and report."

#: The options that ``--help`` shows.
EVERYDAY = (
    *("dataset", "recipe", "method", "backbone", "tasks", "epochs", "batch_size", "learning_rate"),
    *("sdlora.rank", "sdlora.head", "seed", "validation", "data", "output", "device"),
)

#: Settings of SDLoRAConfig whose type no text can give, with their type and description on the command line.
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
    "bfloat16": "precision",
    "backbone_learning_rate": "finetune.learning_rate",
    "ewc_lambda": "ewc.weight",
    "lwf_alpha": "lwf.alpha",
    "replay_memory": "replay.memory",
    "olora_lambda": "olora.weight",
    "nlora_lambda": "nlora.weight",
    "clora_lambda": "clora.weight",
    "inflora_threshold": "inflora.threshold",
}

#: What options are called elsewhere.
_KNOWN_ELSEWHERE = {
    **dict.fromkeys(("lr", "rate"), "learning_rate"),
    **dict.fromkeys(("bs", "batch", "mb_size", "train_mb_size", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("n_epochs", "num_epochs", "train_epochs"), "epochs"),
    **dict.fromkeys(("n_tasks", "num_tasks", "experiences", "n_experiences"), "tasks"),
    **dict.fromkeys(("model", "arch", "net"), "backbone"),
    **dict.fromkeys(("img_size", "input_size", "resolution"), "image_size"),
    **dict.fromkeys(("r", "lora_r", "lora_rank"), "sdlora.rank"),
    **dict.fromkeys(("num_workers", "n_workers"), "workers"),
    **dict.fromkeys(("out", "out_dir", "output_dir", "save_dir"), "output"),
    **dict.fromkeys(("root", "data_dir", "data_path", "data_root"), "data"),
    **dict.fromkeys(("gpu", "cuda"), "device"),
    **dict.fromkeys(("amp", "autocast", "dtype", "fp16", "bf16"), "precision"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    "classifier": "sdlora.head",
}


@cache
def run_options() -> Mapping[str, Option]:
    """Every option of a run by name."""
    options = [*options_of(Arguments, "Method and data", positional=("dataset",))]
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
        nargs: Literal["+"] | None = "+" if get_origin(kind) is list else None
        kind = get_args(kind)[0] if nargs else kind
        yield Option(prefix + field.name, kind, text, title, positional=field.name in positional, nargs=nargs)


def _plain(text: str) -> str:
    """A description of a docstring on one line and without its markup."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return " ".join(text.replace("``", "").split())


def renamed(name: str) -> str:
    """The present name of an option that had another one in version 0.1; any other name as it is."""
    return _RENAMED.get(name, f"sdlora.{name}" if f"sdlora.{name}" in run_options() else name)


def advice(name: str, dashes: str = "--") -> str | None:
    """The end of a message about an option's old name, or its name elsewhere; None for any other name."""
    present = _KNOWN_ELSEWHERE.get(name, renamed(name))
    if name == "bfloat16":
        present += " bfloat16" if dashes else ' = "bfloat16"'
    return None if present == name else f": write {dashes}{present}"


def check_settings(settings: Mapping[str, Any], where: str, *, allowed: Collection[str] = ()) -> None:
    """Refuse names that are no settings of a run, and values of another type.

    Args:
        settings: Values by name, as :meth:`Arguments.flat` gives them.
        where: Beginning of the message.
        allowed: Names that are accepted although a recipe may not have them.

    Raises:
        ValueError: The message has the name, the value and the right one.
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
        command: The words to type.
        about: The purpose of the command.
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
        advice=lambda name: advice(name) if _KNOWN_ELSEWHERE.get(name, renamed(name)) not in without else None,
    )
