"""`owl2 export`: a training checkpoint or a model as a directory to use, to publish, or to run without owl2."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from owl2.dtypes import WeightDtype
from owl2.files import check_output_directory

EXAMPLE = "owl2 export runs/pretrain exported --layout official"


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a run, one of its checkpoints, or a model directory.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="New directory for the model.")],
    step: Annotated[int | None, typer.Option(help="Step of the checkpoint; the newest by default.")] = None,
    dtype: Annotated[WeightDtype, typer.Option(help="Precision of the weights.")] = "bfloat16",
    layout: Annotated[
        Literal["owl2", "official"], typer.Option(help="Our layout, or that of the official code.")
    ] = "owl2",
    hub_code: Annotated[
        bool, typer.Option("--hub-code", help="Add the code, to load with trust_remote_code without owl2.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload the directory to this repository of the hub.")
    ] = None,
) -> None:
    """Write the model of a run, finished or not, as a directory that transformers loads; with LoRA its adapter."""
    if not source.is_dir():  # asked before torch is imported
        raise ValueError(f"{source} is not a directory: name a run of owl2 train, one of its checkpoints, or a model")
    check_output_directory(target, "DIR")
    import torch
    from transformers.utils import logging

    from owl2.training.export import export as export_run

    from .shards import show_shard

    logging.disable_progress_bar()
    taken = export_run(source, target, step, getattr(torch, dtype), layout, hub_code, show_shard)
    what = source if taken is None else f"step {taken} of {source}"
    typer.echo(f"{target}: {what} in {dtype}, {layout} layout{', with its code' if hub_code else ''}")
    if push_to_hub is not None:
        from owl2.checkpoints.hub_code import push

        typer.echo(push(target, push_to_hub))
