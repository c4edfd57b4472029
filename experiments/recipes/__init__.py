"""The recipes: the settings for each data set, as data in the TOML files of this folder.

A file holds at its top what all recipes of a data set share, one table for each recipe (``[default]``, ``[paper]``,
``[reference]`` and any other), and the published results in ``[published]``. A recipe is the shared part with its
table's values in place of equal names; nothing else is inherited. A setting of SD-LoRA is ``sdlora.rank = 10``, at the
top of the file too, so that no recipe can be named ``sdlora``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avalanche_sdlora.near import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
REQUIRED = ("backbone", "epochs", "batch_size", "optimizer")


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


def flattened(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of settings with one name for each: ``{"sdlora": {"rank": 8}}`` becomes ``{"sdlora.rank": 8}``."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def recipes_of(dataset: str, *, folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Every recipe of a data set by name, complete; the types of its values are not checked here.

    Args:
        dataset: Name as on the command line: ``cifar100``, ``folder:PATH``, ...
        folder: Folder with the files.

    Raises:
        ValueError: There is no file for the data set, or it is not of the form that this module describes.
    """
    path = _path(dataset, folder)
    contents = read_toml(path)
    own = {key for key, value in contents.items() if isinstance(value, dict) and key not in ("published", "sdlora")}
    shared = {key: value for key, value in contents.items() if key not in {*own, "published"}}
    recipes = {name: flattened(shared) | flattened(contents[name]) for name in contents if name in own}
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
        raise ValueError(
            f"recipe={name!r}: {_path(dataset, folder)} has {', '.join(recipes)}{did_you_mean(name, recipes)}"
        )
    return recipes[name]


def published(dataset: str, tasks: int, *, folder: Path = FOLDER) -> dict[str, dict[str, float]]:
    """Published results by method, each with ``acc`` and ``aaa`` in percent; empty where none are known.

    Args:
        dataset: Name as on the command line.
        tasks: Length of the stream.
        folder: Folder with the files.

    Raises:
        ValueError: As :func:`recipes_of`, or a result is not a pair of numbers.
    """
    path = _path(dataset, folder)
    table = read_toml(path).get("published", {}).get(str(tasks), {})
    for method, pair in table.items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(number, int | float) for number in pair)):
            raise ValueError(f"{path} [published.{tasks}]: {method} = {pair!r}: expected [Acc, AAA] in percent")
    return {method: {"acc": float(acc), "aaa": float(aaa)} for method, (acc, aaa) in table.items()}


def _path(dataset: str, folder: Path) -> Path:
    path = folder / f"{dataset.partition(':')[0].lower()}.toml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.toml"))
        raise ValueError(
            f"{dataset}: no recipe; there are recipes for {', '.join(names)}{did_you_mean(path.stem, names)}"
        )
    return path
