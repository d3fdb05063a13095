"""The progress of commands that write a large model."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from owl2.checkpoints.shards import ShardProgress


def show_shard(progress: "ShardProgress") -> None:
    """Prints a line on stderr after each of several shards."""
    if progress.of > 1:
        done, total = progress.bytes / 1e9, progress.total / 1e9
        what = "was there and is whole" if progress.was_there else "written"
        typer.echo(f"{progress.shard} {what}: {done:.2f} of {total:.2f} GB", err=True)
