"""`owl2 merge-lora`: an adapter and its base model to one plain model."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.files import check_output_directory

EXAMPLE = "owl2 merge-lora runs/lora/checkpoint merged --base DIR"


def merge_lora(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of the adapter.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the new model.")],
    base: Annotated[str, typer.Option(metavar="DIR", help="Directory of the model that the adapter was trained on.")],
) -> None:
    """Merge an adapter into its base model."""
    check_output_directory(out, "OUT")
    from transformers.utils import logging

    from owl2.training.adapters import merge

    from .shards import show_shard

    logging.disable_progress_bar()
    merge.merge_lora(adapter, base, out, show_shard)
    typer.echo(f"Merged into {out}: it loads like any model, and no longer needs PEFT.")
