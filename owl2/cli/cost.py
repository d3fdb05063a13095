"""`owl2 cost`: operations, memory and hours of a recipe before anything starts."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .completion import complete_recipe
from .errors import EXIT_CODE

EXAMPLE = "owl2 cost pretrain --gpus 8 --gpu h100"


def cost(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or a name that `owl2 recipes` lists.",
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="Other values of the recipe.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 1,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: h100, h200, b200, a100, l40s, rtx4090, ...")] = "h100",
    mfu: Annotated[float, typer.Option(help="Share of the GPUs' peak that is reached.")] = 0.45,
    text_tokens: Annotated[float | None, typer.Option(help="Tokens of text in a mean sample.")] = None,
    images: Annotated[float, typer.Option(help="Images in a mean sample.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a recipe costs: parameters, operations, memory of a GPU, hours.

    Exit code 2 if a GPU has too little memory.
    """
    from owl2.training.cost.gpu_specs import gpu_named
    from owl2.training.recipe.yaml_file import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # before torch: what is mistyped is reported at once
    gpu_named(gpu)
    from owl2.training.cost.estimate import recipe_cost

    found = recipe_cost(loaded, gpus, gpu, mfu, text_tokens, images)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        from rich.console import Console

        from owl2.training.cost.tables import cost_tables

        console = Console(highlight=False, soft_wrap=True)
        for shown in cost_tables(found):
            console.print(shown)
    if not found.fits:
        raise typer.Exit(EXIT_CODE)
