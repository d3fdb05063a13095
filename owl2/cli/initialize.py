"""`owl2 initialize`: a new mPLUG-Owl2 from a language model and a CLIP, one shard in memory at a time."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from owl2.dtypes import WeightDtype

EXAMPLE = "owl2 initialize OUT --language-model LLAMA --vision-encoder CLIP"


def initialize(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New directory for the model.")],
    language_model: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of a language model of the LLaMA family.")
    ],
    vision_encoder: Annotated[Path, typer.Option(metavar="DIR", help="Directory of a CLIP with a ViT.")],
    connector: Annotated[
        Literal["abstractor", "mlp"],
        typer.Option(help="The visual abstractor, or an MLP over all patches as in LLaVA."),
    ] = "abstractor",
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Pixels of a side; by default those of the vision encoder.")
    ] = None,
    dtype: Annotated[WeightDtype, typer.Option(help="Precision of the weights.")] = "bfloat16",
    layout: Annotated[
        Literal["owl2", "official"], typer.Option(help="Our layout, or that of the official code.")
    ] = "owl2",
    seed: Annotated[int, typer.Option(help="Seed of the connector, which begins at random.")] = 0,
) -> None:
    """Make the model that stage 1 starts from, of any size: about one shard of it is in memory at a time.

    If it is interrupted, or the disk is full, the same command continues.
    """
    from owl2.files import check_output_directory, model_directory

    check_output_directory(target, "OUT")
    for directory in (language_model, vision_encoder):
        model_directory(directory)
    import torch

    from owl2.checkpoints.initialize_stored import initialize_in_shards

    from .shards import show_shard

    initialize_in_shards(
        language_model,
        vision_encoder,
        target,
        connector=connector,
        image_size=image_size,
        dtype=getattr(torch, dtype),
        layout=layout,
        seed=seed,
        report=show_shard,
    )
    typer.echo(f"{target}: a new model in {dtype}, {layout} layout, of {language_model} and {vision_encoder}")
