"""`owl2 report`: results beside the published ones."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.files import check_output_directory

EXAMPLE = "owl2 report runs/evaluation --out report"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories that owl2 evaluate wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write the report; by default the first RUN.")
    ] = None,
) -> None:
    """Tables in the layout of the paper's, with ours beside the published rows, and charts."""
    from owl2.evaluation.results.report import write_report

    if out is not None:
        check_output_directory(out)
    for path in write_report(runs, out or runs[0]):
        typer.echo(f"{path}")
