"""`owl2 recipes`: what `owl2 train` can run by name."""

import shutil
import sys
import textwrap
from typing import Annotated

import typer

from .completion import complete_any_recipe

EXAMPLE = "owl2 recipes small/pretrain > mine.yaml"


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Print this one, to be copied and changed.", autocompletion=complete_any_recipe
        ),
    ] = None,
) -> None:
    """List the recipes that come with owl2, or print one of them."""
    from owl2.recipes import description, find_recipe, recipe_names

    if name is not None:
        typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
        return
    names = recipe_names()
    width = max(map(len, names)) + 2
    for each in names:
        line = description(each)
        if sys.stdout.isatty():
            line = textwrap.shorten(line, max(20, shutil.get_terminal_size().columns - width), placeholder=" ...")
        typer.echo(f"{each:<{width}}{line}")
