"""`owl2 data index` and `owl2 data pairs`: make stage-1 pairs ready, and look for broken ones."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.data.printing import printable

INDEX = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the index; inside the folder of the shards by default.")
]


def index(
    shards: Annotated[str, typer.Argument(metavar="F", help="Folder of tar shards, or s3://bucket/folder.")],
    index: INDEX = None,
    num_workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes.")] = 1,
) -> None:
    """Note where the pairs of tar shards begin. Run it again when there are new shards: only those are read."""
    from owl2.data.pairs import index_shards

    pairs = count = 0
    for shard in index_shards(shards, index, num_workers):
        count, pairs = count + 1, pairs + shard.pairs
        if shard.problem:
            typer.echo(f"{printable(shard.name)}: {shard.problem}; {shard.pairs:,} pairs before that", err=True)
    typer.echo(f"{count:,} shards, {pairs:,} pairs")


def pairs(
    path: Annotated[
        str, typer.Argument(metavar="F", help="Folder of tar shards, file .jsonl or .parquet, or COCO's .json.")
    ],
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where images lie; beside F by default.")] = None,
    index: INDEX = None,
    image_field: Annotated[str | None, typer.Option(metavar="NAME", help="Field or column of the image.")] = None,
    caption_field: Annotated[str | None, typer.Option(metavar="NAME", help="Field or column of the caption.")] = None,
    most: Annotated[int | None, typer.Option("--sample", min=1, metavar="N", help="Read N random pairs only.")] = None,
) -> None:
    """Open every image-text pair, and list what is broken. Exit code 1 if anything is."""
    if "://" not in path and not Path(path).exists():  # asked before torch is imported
        raise ValueError(f"{path} does not exist")
    from owl2.data.pairs import PairCheck, open_pairs

    source = open_pairs("pairs", path, root=root, index=index, image_field=image_field, caption_field=caption_field)
    check = PairCheck(source, most)
    for broken in check:
        typer.echo(f"{broken.fault}: {printable(' '.join(str(broken).split()))}")
    for fault, count in check.faults.most_common():
        typer.echo(f"{count:>9,}  {fault}")
    faulty = check.faults.total()
    typer.echo(f"{check.read + faulty:,} of {check.order.size:,} pairs read, {faulty:,} broken")
    if faulty:
        raise typer.Exit(1)
