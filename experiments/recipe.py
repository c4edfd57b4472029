"""Shows the recipes of data sets side by side: ``python -m experiments.recipe DATASET``."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from experiments.arguments import Arguments
from experiments.interruption import until_stopped
from experiments.options.commandline import CommandLine, Option
from experiments.recipes import FOLDER, recipes_of
from experiments.resolve import resolve

COMMAND = CommandLine(
    "python -m experiments.recipe",
    "Show the recipes of data sets side by side, every value of them and of the presets that they name.",
    [Option("datasets", str, "Data sets; all by default.", positional=True, nargs="*")],
)


def table_of(dataset: str) -> Table:
    """The recipes of a data set, one in each column.

    Raises:
        ValueError: There are none, or a value in one cannot be used.
    """
    recipes = recipes_of(dataset)
    for name, recipe in recipes.items():
        config = resolve(Arguments(dataset, recipe=name)).config.to_dict()
        recipe |= {f"sdlora.{key}": value for key, value in config.items()}
    table = Table(title=f"Recipes for {dataset}")
    table.add_column("", no_wrap=True)
    for name in recipes:
        table.add_column(name, overflow="fold")
    for key in dict.fromkeys(key for recipe in recipes.values() for key in recipe):
        table.add_row(key, *(str(recipe.get(key, "")) for recipe in recipes.values()))
    return table


def main() -> None:
    """The command line."""
    try:
        for dataset in COMMAND.parse().get("datasets") or sorted(file.stem for file in FOLDER.glob("*.toml")):
            Console().print(table_of(dataset))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    until_stopped(main)
