"""`owl2 ablate`: a grid of runs, and the table, tests and plots of what came out."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.environment import restart_with_fast_allocation
from owl2.files import check_output_directory
from owl2.recipes import find_grid

from .completion import complete_grid

EXAMPLE = "owl2 ablate ablations/small/controls --out runs/controls --smoke"


def ablate(
    grid: Annotated[
        str,
        typer.Argument(
            metavar="GRID", help="Name of a grid of the package, or a YAML file.", autocompletion=complete_grid
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where models are trained.")] = Path("runs/ablation"),
    metrics: Annotated[
        Path | None, typer.Option(help="Folder of the metrics and the report; that of --out by default.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="FACTOR=LEVEL,LEVEL", help="Only these levels.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="The short form: shows that it runs, is no evidence.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time, on one GPU each in turn.")] = 1,
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share the training of a cell, under torchrun.")] = 1,
    report: Annotated[bool, typer.Option("--report", help="Only compute the report again.")] = False,
) -> None:
    """Run an ablation: arms x factors x seeds, with shared stages trained once.

    The same command resumes, also on several machines that share the folders.
    """
    file = find_grid(grid)
    check_output_directory(out)
    if metrics is not None:
        check_output_directory(metrics, "--metrics")
    if not report:
        restart_with_fast_allocation()
    from rich.console import Console

    from owl2.analysis.ablation.ablate import ablate as run

    if not run(file, out, Console(), metrics, only or [], smoke, jobs, report, ranks):
        raise typer.Exit(130)
