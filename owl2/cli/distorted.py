"""`owl2 data distorted`: pictures distorted by known amounts, with opinion scores."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.data.printing import printable


def distorted(
    out: Annotated[Path, typer.Option(metavar="DIR", help="New directory for the files.")],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="Other pictures for another seed.")] = 0,
    image_size: Annotated[int, typer.Option(min=16, metavar="PIXELS", help="Side of a picture.")] = 64,
) -> None:
    """Draw scenes, distort them by known amounts, and write them with opinion scores, to try image quality on."""
    from owl2.data.sources.distorted import write_distorted

    typer.echo(f"wrote {printable(str(write_distorted(out, count, seed, image_size)))}")
