"""A run from a TOML file, and the file that makes a run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from avalanche_sdlora.files import replacing
from avalanche_sdlora.near import did_you_mean
from experiments.options.commandline import Option
from experiments.options.run_options import advice, run_options
from experiments.recipes import flattened, read_toml

CONFIG = Option("config", str, "A TOML file with values of options, such as the config.toml of a run.")

#: Options that other values of a file follow from: another one beside the file would be without effect on those.
_DECIDE = ("dataset", "recipe", "method", "sdlora.preset")


def config_of(words: Sequence[str]) -> str | None:
    """The file that a command line names with ``--config``, None where it names none."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--config":
            return value if equals else "".join(words[i + 1 : i + 2])
    return None


def read_config(path: str) -> dict[str, Any]:
    """The values of a file by the names of their options.

    Raises:
        ValueError: There is no such file, it is not TOML, or holds a name or a value that no option takes; the message
            names the file.
    """
    values = flattened(read_toml(Path(path)))
    for name, value in values.items():
        if name not in run_options():
            raise ValueError(f"{path}: unknown option {name!r}{advice(name, '') or did_you_mean(name, run_options())}")
        if not run_options()[name].takes(value):
            raise ValueError(f"{path}: {run_options()[name].refusal(value)}")
    return values


def beside(path: str, values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, and in place of equal names those of the command line.

    Raises:
        ValueError: The command line names another data set, recipe, method or preset than the file, whose other values
            were made for that one.
    """
    for name in _DECIDE:
        if name in given and name in values and given[name] != values[name]:
            typed = str(given[name]) if name == "dataset" else f"--{name} {given[name]}"
            raise ValueError(
                f"{typed}: {path} is for {name} {values[name]!r}, which its other values belong to; leave {typed} out, "
                f"or remove {name} and those values from the file"
            )
    return {**values, **given}


def config_text(values: Mapping[str, Any]) -> str:
    """The content of a file of values by the names of their options; None, an option left open, is left out."""
    tables: dict[str, Any] = {}
    for name, value in values.items():
        table, dot, key = name.partition(".")
        if value is not None:
            (tables.setdefault(table, {}) if dot else tables)[key if dot else name] = value
    plain = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    return tomli_w.dumps(plain | {name: value for name, value in tables.items() if isinstance(value, dict)})


def write_config(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write :func:`config_text`, in one step."""
    with replacing(path) as temporary:
        Path(temporary).write_text(config_text(values), encoding="utf-8")
