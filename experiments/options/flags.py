"""Messages in the words of the command line: ``img_size=31`` becomes ``--image_size 31``."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.downloads import DownloadError
from experiments.options.run_options import run_options

# What the library and the benchmarks call an option.
_ARGUMENTS = {"img_size": "image_size", "name": "backbone", "root": "data", "n_experiences": "tasks"}

# ``name=value``, where the value is a text in quotes, a number, a word or a call; or nothing.
_SETTING = re.compile(r"(?<![\w.\-'\"/])([A-Za-z_][\w.]*)=('[^']*'|\"[^\"]*\"|[\w+.-]*\w(?:\([^)]*\))?)?")


def in_flags(error: BaseException | str, own: Collection[str] = ()) -> str:
    """What a person who typed a command reads of an error: arguments of functions by the names of options.

    Args:
        error: The error, or its message.
        own: Names of options that the command has beside those of a run.
    """
    if isinstance(error, DownloadError):
        return (
            f"the weights of the backbone cannot be fetched ({error.reason}). Without a connection give a local file: "
            "--weights FILE, or one that carries the backbone's name in the folder that SDLORA_DATA names"
        )
    if isinstance(error, OSError) and error.strerror is not None:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    return _SETTING.sub(lambda match: _flag(match, {**_names(), **{name: name for name in own}}), str(error))


def _flag(match: re.Match[str], names: Mapping[str, str]) -> str:
    name, value = match[1], match[2] or ""
    option = names.get(name)
    if option is None:
        return match[0]
    if value[:1] in ("'", '"'):
        value = shlex.quote(value[1:-1])
    value = {"True": "true", "False": "false", "None": ""}.get(value, value)
    return f"--{option} {value}".rstrip()


@cache
def _names() -> dict[str, str]:
    settings = {field.name: f"sdlora.{field.name}" for field in dataclasses.fields(SDLoRAConfig)}
    flags = {name: name for name, option in run_options().items() if not option.positional}
    # Arguments that one method alone has; those of several would have to be guessed.
    last = Counter(name.rpartition(".")[2] for name in flags)
    own = {name.rpartition(".")[2]: name for name in flags if "." in name and last[name.rpartition(".")[2]] == 1}
    return {**own, **settings, **_ARGUMENTS, **flags}
