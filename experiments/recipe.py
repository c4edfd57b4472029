"""The recipes: what each data set is trained with, as data in ``experiments/recipes/*.toml``.

A file holds what all recipes of a data set share at its top, one table for each recipe (``[default]``, ``[paper]``,
``[reference]`` and any other), and the published results in ``[published]``. A recipe is the shared part with its
table's values in place of equal names; nothing else is inherited. ``python -m experiments.recipe DATASET`` shows the
recipes of a data set side by side, with what their presets say.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).with_name("recipes")
REQUIRED = ("backbone", "preset", "epochs", "batch_size", "optimizer", "learning_rate")


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises:
        ValueError: There is no such file, or it is not TOML; the message names it.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as TOML ({error})") from None


def recipes_of(dataset: str, *, folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Every recipe of a data set by name, complete; the types of its values are not checked here.

    Args:
        dataset: As on the command line: ``cifar100``, ``folder:PATH``, ...
        folder: Where the files are.

    Raises:
        ValueError: There is no file for the data set, or it is not of the form that this module describes.
    """
    path = _path(dataset, folder)
    contents = read_toml(path)
    shared = {key: value for key, value in contents.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in contents.items() if isinstance(value, dict) and key != "published"}
    recipes = {name: {**shared, **table} for name, table in tables.items()}
    for name, recipe in recipes.items():
        missing = [key for key in REQUIRED if key not in recipe]
        if missing:
            raise ValueError(f"{path} [{name}]: lacks {', '.join(missing)}")
    return recipes


def recipe_of(dataset: str, name: str, *, folder: Path = FOLDER) -> dict[str, Any]:
    """One recipe, complete.

    Raises:
        ValueError: As :func:`recipes_of`, or there is no recipe of that name.
    """
    recipes = recipes_of(dataset, folder=folder)
    if name not in recipes:
        raise ValueError(f"recipe={name!r}: {_path(dataset, folder)} has {', '.join(recipes)}{hint(name, recipes)}")
    return recipes[name]


def published(dataset: str, tasks: int, *, folder: Path = FOLDER) -> dict[str, dict[str, float]]:
    """Published results: method to ``acc`` and ``aaa`` in percent; empty where none are known.

    Args:
        dataset: As for :func:`recipes_of`.
        tasks: Length of the stream.
        folder: Where the files are.

    Raises:
        ValueError: As :func:`recipes_of`, or a result is not a pair of numbers.
    """
    path = _path(dataset, folder)
    table = read_toml(path).get("published", {}).get(str(tasks), {})
    for method, pair in table.items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(number, int | float) for number in pair)):
            raise ValueError(f"{path} [published.{tasks}]: {method} = {pair!r}: expected [Acc, AAA] in percent")
    return {method: {"acc": float(acc), "aaa": float(aaa)} for method, (acc, aaa) in table.items()}


def hint(word: str, known: Iterable[str]) -> str:
    """``"; did you mean ...?"`` where something known is like ``word``, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _path(dataset: str, folder: Path) -> Path:
    path = folder / f"{dataset.partition(':')[0].lower()}.toml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.toml"))
        raise ValueError(f"{dataset}: no recipe; there are recipes for {', '.join(names)}{hint(path.stem, names)}")
    return path


def main() -> None:
    """Show the recipes of the data sets named on the command line, every value, side by side."""
    from experiments.arguments import Arguments  # which reads recipes itself

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("datasets", nargs="*", help="By default all.", metavar="DATASET")
    try:
        for dataset in parser.parse_args().datasets or sorted(file.stem for file in FOLDER.glob("*.toml")):
            recipes = recipes_of(dataset)
            for name, recipe in recipes.items():
                recipe |= Arguments(dataset, recipe=name).resolved().sdlora_config().to_dict()
            table = Table("", title=f"Recipes for {dataset}")
            for name in recipes:
                table.add_column(name, overflow="fold")
            for key in dict.fromkeys(key for recipe in recipes.values() for key in recipe):
                table.add_row(key, *(str(recipe.get(key, "")) for recipe in recipes.values()))
            Console().print(table)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
