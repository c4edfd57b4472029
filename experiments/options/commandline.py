"""A command line with help on two levels and with one line for every mistake."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from avalanche_sdlora.near import did_you_mean

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_METAVARS = {int: "N", float: "X", bool: "true|false", str: "TEXT"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: Its name, without dashes.
        hint: The type of its value; None, the value of an option that is not given, is always allowed.
        about: Its description in the help.
        title: The heading that it stands below in the whole help.
        positional: Whether it is given without its name.
        nargs: How many values it takes, as argparse has it; None for one.
    """

    name: str
    hint: Any
    about: str
    title: str = "Options"
    positional: bool = False
    nargs: Literal["*", "+", 0] | None = None

    @property
    def usage(self) -> str:
        """The option with a placeholder for its value."""
        if self.positional:
            return self.name.upper()
        if self.nargs == 0:
            return f"--{self.name}"
        return f"--{self.name} {self._metavar()}" + (" ..." if self.nargs else "")

    def _metavar(self) -> str:
        choices, kinds = _parts(self.hint)
        if choices:
            return "{" + ",".join([*map(str, choices), *(["true", "false"] if bool in kinds else [])]) + "}"
        return _METAVARS.get(kinds[-1], "VALUE")

    def refusal(self, value: Any) -> str:
        """The message about a value that the option does not take."""
        choices, kinds = _parts(self.hint)
        words = [str(choice) for choice in choices] + [_WORDS.get(kind, str(kind)) for kind in kinds]
        near = did_you_mean(value, map(str, choices)) if isinstance(value, str) else ""
        expected = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
        return f"{self.name}={value!r}: expected {expected}{near}"

    def takes(self, value: Any) -> bool:
        """Whether a value that did not come as text, from a TOML file for instance, has the option's type."""
        try:
            _reader(self.hint).parse_object({"value": value})
        except argparse.ArgumentError:
            return False
        return True


def taken(given: dict[str, Any], options: Iterable[Option]) -> dict[str, Any]:
    """The values of some options, by name; what is ``given`` is left with those of all others."""
    return {option.name: given.pop(option.name) for option in options if option.name in given}


class CommandLine:
    """The options of one command.

    Args:
        command: The words to type: ``python -m experiments.run``.
        about: The purpose of the command.
        options: Every option.
        everyday: Names of those that ``--help`` shows; ``--help all`` shows all, and so does ``--help`` where this is
            empty.
        closing: Lines below the help.
        advice: Answers an unknown name, None where it knows no better one.
    """

    def __init__(
        self,
        command: str,
        about: str,
        options: Iterable[Option],
        *,
        everyday: Collection[str] = (),
        closing: str = "",
        advice: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        self.options = {option.name: option for option in options}
        self._command, self._about, self._everyday, self._closing = command, about, everyday, closing
        self._advice = advice

    def parse(self, words: Sequence[str] | None = None, *, known: Collection[str] = ()) -> dict[str, Any]:
        """Read the words of a command line, by default those that the program was started with.

        Args:
            words: The words.
            known: Names of options whose values come from elsewhere, so that no positional one of them must be given.

        Returns:
            The values that were given, by the names of their options.

        Raises:
            ValueError: Something is wrong; the message is one line.
            SystemExit: Help was asked for and has been printed.
        """
        words = list(sys.argv[1:] if words is None else words)
        given = {option.name for option in self.options.values() if option.positional}
        for i, word in enumerate(words):
            if word in ("-h", "--help"):
                print(self.help(everything=not self._everyday or words[i + 1 : i + 2] == ["all"]))
                raise SystemExit(0)
            name = word[2:].partition("=")[0]
            if word.startswith("--") and (name not in self.options or self.options[name].positional):
                raise ValueError(f"unknown option --{name}{self._advice(name) or did_you_mean(name, self.flags)}")
            if word.startswith("--"):
                given.add(name)
        parser = ArgumentParser(exit_on_error=False, add_help=False)
        for option in self.options.values():
            _add(parser, option, required=option.name not in known)
        try:
            found = parser.parse_args(words).as_flat()
        except argparse.ArgumentError as error:
            raise ValueError(self._line(str(error))) from None
        values = {name: vars(found)[name.replace("-", "_")] for name in given}
        return {name: value for name, value in values.items() if value not in (None, [])}

    @property
    def flags(self) -> list[str]:
        """The names of the options that are given by their names."""
        return [option.name for option in self.options.values() if not option.positional]

    def _line(self, message: str) -> str:
        key = re.match(r'Parser key "([\w.]+)"', message)
        value = re.findall(r"(?:Given|Got) value: (.*)", message)
        if key and value:
            return self.options[key[1]].refusal(value[-1])
        return message.partition("\n")[0] + " (--help lists the options)"

    def help(self, *, everything: bool) -> str:
        """The help as text of at most 80 columns."""
        positionals = [option for option in self.options.values() if option.positional]
        words = [o.usage + ("" if o.nargs is None else " ...") for o in positionals]
        usage = " ".join(["usage:", self._command, *words, "[--OPTION VALUE ...]"])
        lines = [usage, "", *textwrap.wrap(self._about, 80)]
        shown = [o for o in self.options.values() if everything or o.name in self._everyday]
        title = None
        for option in shown:
            if everything and option.title != title:
                title = option.title
                lines += ["", *textwrap.wrap(title, 80)]
            elif title is None:
                title = ""
                lines.append("")
            lines += _entry(option, brief=not everything)
        if not everything:
            lines += ["", f"--help all shows all of the {len(self.options)} options."]
        return "\n".join([*lines, *self._closing.splitlines()])


def _entry(option: Option, *, brief: bool) -> list[str]:
    about = option.about.partition(". ")[0].rstrip(".") if brief else option.about
    text = textwrap.wrap(about, 54, break_on_hyphens=False) or [""]
    left = f"  {option.usage}"
    if len(left) > 24:
        return [left, *(" " * 26 + line for line in text)]
    return [f"{left:<26}{text[0]}", *(" " * 26 + line for line in text[1:])]


def _add(parser: ArgumentParser, option: Option, *, required: bool) -> None:
    name = option.name if option.positional else f"--{option.name}"
    if option.positional and option.nargs is None and not required:
        parser.add_argument(name, type=option.hint | None, nargs="?")
        return
    if option.nargs == 0:
        parser.add_argument(name, action="store_true")
    elif option.nargs:
        parser.add_argument(name, type=option.hint, nargs=option.nargs)
    else:
        parser.add_argument(name, type=option.hint if option.positional else option.hint | None)


def _parts(type_hint: Any) -> tuple[list[Any], list[Any]]:
    """The choices and the other types that a type is made of; None is left out."""
    if get_origin(type_hint) is Literal:
        return list(get_args(type_hint)), []
    if get_origin(type_hint) in (Union, types.UnionType):
        found = [_parts(part) for part in get_args(type_hint)]
        return [choice for choices, _ in found for choice in choices], [kind for _, kinds in found for kind in kinds]
    return [], [] if type_hint is type(None) else [type_hint]


@cache
def _reader(type_hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=type_hint | None)
    return parser
