"""`owl2 export`: a training checkpoint as a model directory."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, or one of its checkpoints.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="New directory for the model.")],
    step: Annotated[int | None, typer.Option(help="Step of the checkpoint; the newest by default.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Precision of the weights.")
    ] = "bfloat16",
    layout: Annotated[
        Literal["owl2", "official"], typer.Option(help="Ours, or what the official code reads.")
    ] = "owl2",
) -> None:
    """Write the model of a run, finished or not, as a directory that transformers loads; with LoRA its adapter."""
    import torch
    from transformers.utils import logging

    from owl2.training.export import export as export_run

    logging.disable_progress_bar()
    taken = export_run(source, target, step, getattr(torch, dtype), layout)
    typer.echo(f"{target}: step {taken} of {source} in {dtype}, {layout} layout")
