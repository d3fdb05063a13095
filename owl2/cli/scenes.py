"""`owl2 data scenes`: generated scenes as files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer

from owl2.data.printing import printable
from owl2.data.sources.scenes.world import DifficultyName, Kind, Split

_Kind = StrEnum("_Kind", list(get_args(Kind)))  # type: ignore[misc] # typer reads no list of a Literal


def scenes(
    out: Annotated[Path, typer.Option(metavar="DIR", help="New directory for the files.")],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Conversations, and as many pairs.")] = 100,
    difficulty: Annotated[DifficultyName, typer.Option(help="How many things there are, and how alike.")] = "medium",
    split: Annotated[Split, typer.Option(help="held_out shows the combinations that the others never show.")] = "train",
    kind: Annotated[
        list[_Kind] | None, typer.Option(help="Only this kind of conversation; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Other scenes for another seed.")] = 0,
    image_size: Annotated[int, typer.Option(min=16, metavar="PIXELS", help="Side of an image.")] = 256,
) -> None:
    """Draw generated scenes with captions, questions and their programs, as files that recipes and owl2 data read."""
    from owl2.data.sources.scenes.export import export_scenes
    from owl2.data.sources.scenes.records import KINDS, SceneSettings

    kinds = tuple(each for each in KINDS if kind is None or each in kind)
    settings = SceneSettings(count, seed, split, difficulty, kinds, image_size)
    for file in export_scenes(settings, out):
        typer.echo(f"wrote {printable(str(file))}")
