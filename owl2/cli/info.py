"""`owl2 info`: what a checkpoint holds, and whether all of it loads."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import EXIT_CODE

if TYPE_CHECKING:
    from owl2.checkpoints.inspect import CheckpointReport

SHOWN_KEYS = 8
"""The number of keys that the table shows of a long list of keys that do not fit; --json has all."""

PART_NAMES = {
    "vision_encoder": "vision encoder",
    "abstractor": "visual abstractor",
    "decoder_vision": "decoder, vision half",
    "decoder_text": "decoder, text half",
    "decoder_shared": "decoder, shared",
    "embeddings": "embeddings and head",
}

EXAMPLE = "owl2 info DIR --json"


def info(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Directory of the model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the parts of a model, its parameters by modality, and what of its files loads.

    Exit code 2 if not everything does.
    """
    from owl2.files import model_directory

    model_directory(directory)
    from owl2.checkpoints.inspect import inspect_checkpoint
    from owl2.checkpoints.loading import prompt_of

    report = inspect_checkpoint(directory)
    prompt = prompt_of(directory)
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "prompt": prompt}, indent=2, ensure_ascii=False))
    else:
        _show(report, prompt)
    if not report.fits:
        raise typer.Exit(EXIT_CODE)


def _show(report: "CheckpointReport", prompt: str | None) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(report.directory)}[/bold]: {report.layout} layout, {_size(report.bytes)}")
    console.print(_table(report.parameters, report.modality_of_part))
    for name, value in _facts(report, prompt):
        console.print(f"{name:<20} {escape(value)}")
    for kind, keys in report.problems.items():
        shown = ", ".join(keys[:SHOWN_KEYS]) + (f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else "")
        typer.echo(f"owl2: error: {len(keys)} {kind}: {shown}", err=True)


def _table(parameters: dict[str, int], modality_of_part: dict[str, str]) -> Any:
    from rich.table import Table

    total = sum(parameters.values())
    table = Table(show_footer=True, box=None, padding=(0, 3, 0, 0))
    table.add_column("part", footer="all")
    table.add_column("used by tokens of", footer="")
    table.add_column("parameters", footer=f"{total:,}", justify="right")
    table.add_column("share", footer="100.0%", justify="right")
    for part, name in PART_NAMES.items():
        count = parameters[part]
        table.add_row(name, modality_of_part[part], f"{count:,}", f"{count / total:.1%}")
    return table


def _facts(report: "CheckpointReport", prompt: str | None) -> list[tuple[str, str]]:
    config = report.config
    vision, text = config.vision_config, config.text_config
    queries = f"{config.tokens_per_image - 1} queries and the end of the image"
    visual_tokens = "every patch, through an MLP" if config.connector == "mlp" else queries
    tables = f", {report.tables_checked} fixed tables checked" if report.tables_checked else ""
    return [
        ("weights", f"{report.keys_used + report.tables_checked} of {report.keys} keys used{tables}"),
        ("stored as", ", ".join(f"{name} ({count} keys)" for name, count in report.stored_as.items())),
        ("files", ", ".join(report.files)),
        ("image", f"{vision.image_size} x {vision.image_size} pixels in patches of {vision.patch_size}"),
        ("tokens an image", f"{config.tokens_per_image} ({visual_tokens})"),
        ("separate for vision", ", ".join(text.modality_adaptive) or "nothing"),
        ("language decoder", f"{text.num_hidden_layers} layers of {text.hidden_size}, vocabulary {text.vocab_size:,}"),
        ("context", f"{text.max_position_embeddings:,} tokens"),
        ("prompt", "no tokenizer in this directory" if prompt is None else repr(prompt)),
    ]


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
