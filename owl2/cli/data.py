"""`owl2 data`: look at instruction data before training on it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from owl2.data.preview import Run
    from owl2.processing import Owl2Processor

data = typer.Typer(
    name="data", help="Check instruction data, and look at single records.", no_args_is_help=True, add_completion=False
)

FILE = Annotated[Path, typer.Argument(metavar="F", help="LLaVA conversations or chat messages, JSON or JSON lines.")]
ROOT = Annotated[Path | None, typer.Option(metavar="DIR", help="Where images and videos lie; beside F by default.")]

SUPERVISED = ("\N{LEFT DOUBLE ANGLE BRACKET}", "\N{RIGHT DOUBLE ANGLE BRACKET}")
"""Around supervised tokens where the output has no colours."""


@data.command()
def check(
    file: FILE,
    root: ROOT = None,
    images: Annotated[bool, typer.Option("--images", help="Also open every image and video.")] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Let web addresses pass; they are not opened.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="DIR", help="Also count tokens.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest record in tokens; the model's context by default.")
    ] = None,
) -> None:
    """List every problem of every record with its line number, and a summary. Exit code 1 if there is any."""
    from owl2.data.check import RecordCheck
    from owl2.data.formats import RecordFile

    if model is None and max_length is not None:
        raise ValueError("--max-length needs a --model whose tokens are counted.")
    records = RecordFile(file, root, allow_urls)
    processor = None
    if model is not None:
        processor, context = _load_processor(model)
        max_length = max_length or context
    found = RecordCheck(records, images, processor, max_length)
    for finding in found:
        text = _printable(" ".join(finding.text.split()))
        typer.echo(f"{file}:{finding.line}: {finding.kind}: {text}")
    summary = found.summary
    if summary.kinds:
        typer.echo()
    for kind, count in summary.kinds.most_common():
        typer.echo(f"{count:>9,}  {kind}")
    if summary.unopened:
        typer.echo(f"{summary.unopened:>9,}  web addresses not opened")
    typer.echo(f"{summary.records:,} records, {summary.faulty:,} with problems")
    if summary.faulty:
        raise typer.Exit(1)


@data.command()
def show(
    file: FILE,
    index: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the record, from 0.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    root: ROOT = None,
) -> None:
    """Print a record as the model gets it, with the tokens that it learns in colour, and the sizes of its images."""
    from rich.console import Console
    from rich.text import Text

    from owl2.data.formats import RecordFile
    from owl2.data.preview import preview

    records = RecordFile(file, root)
    if index >= len(records):
        raise ValueError(f"There is no record {index}: {file} holds {len(records)}, numbered from 0.")
    conversation = records[index]
    shown = preview(conversation, _load_processor(model)[0])
    console = Console(highlight=False, soft_wrap=True)
    has_colors = console.color_system is not None
    tokens = sum(run.tokens for run in shown.runs)
    supervised = sum(run.tokens for run in shown.runs if run.is_supervised)
    marking = Text("in colour", "bold green") if has_colors else Text("between {} and {}".format(*SUPERVISED))
    heading = f"record {index} ({_printable(conversation.id)}), line {records.line(index)}: "
    console.print(Text(f"{heading}{tokens} tokens, {supervised} supervised, ").append_text(marking))
    for name in shown.media:
        console.print(Text(name))
    console.print()
    console.print(Text.assemble(*(_styled(run, has_colors) for run in shown.runs)))


def _styled(run: "Run", has_colors: bool) -> tuple[str, str]:
    if run.is_visual:
        return f"[{run.text}, {run.tokens} tokens]", "cyan"
    text = _printable(run.text)
    if run.is_supervised and not has_colors:
        text = f"{SUPERVISED[0]}{text}{SUPERVISED[1]}"
    return text, "bold green" if run.is_supervised else ""


def _printable(text: str) -> str:
    """The text with control characters written out, so that a record cannot steer the terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda match: repr(match.group())[1:-1], text)


def _load_processor(directory: str) -> "tuple[Owl2Processor, int]":
    """The processor of a model, and how many tokens its context holds."""
    from transformers.utils import logging

    from owl2 import Owl2Config, Owl2Processor
    from owl2.checkpoints.inspect import checkpoint_layout

    logging.set_verbosity_error()
    checkpoint_layout(directory)
    path = Path(directory).expanduser()
    context = Owl2Config.from_pretrained(path).text_config.max_position_embeddings
    return Owl2Processor.from_pretrained(path), context
