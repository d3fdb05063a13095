"""`owl2 train`: run a recipe, or resume its run."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.environment import restart_with_fast_allocation
from owl2.files import check_output_directory

from .completion import complete_recipe
from .errors import EXIT_CODE, show_error

EXAMPLE = "owl2 train small/pretrain out=runs/small schedule.steps=100"


def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or a name that `owl2 recipes` lists.",
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION.KEY=VALUE", help="Other values, for example out=DIR or schedule.steps=100."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
) -> None:
    """Train both stages of the paper from recipes; `torchrun -m owl2 train ...` uses several GPUs.

    The same command resumes a run that was stopped (Ctrl-C and SIGTERM save first).
    """
    from owl2.training.recipe.yaml_file import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # before torch: what is mistyped is reported at once
    if loaded.out is not None and not dry_run:
        check_output_directory(Path(loaded.out), "the run directory")
    import torch
    from rich.console import Console
    from transformers.utils import logging

    from owl2.training.monitoring.loss_spikes import TrainingDiverged
    from owl2.training.run import show
    from owl2.training.run import train as run

    console = Console()
    if dry_run:
        show(loaded, console)
        return
    if not torch.cuda.is_available():
        restart_with_fast_allocation()
    logging.disable_progress_bar()  # of loading and saving weights: ours say more
    try:
        run(loaded, console)
    except TrainingDiverged as error:
        show_error(error)
        raise typer.Exit(EXIT_CODE) from error
