"""`owl2 data`: look at instruction data before training on it."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from owl2.data.printing import printable
from owl2.files import check_output_directory

from .completion import complete_mixture
from .distorted import distorted
from .pairs import index, pairs
from .scenes import scenes

if TYPE_CHECKING:
    from owl2.data.check import RecordCheck
    from owl2.data.mixture.check import SourceCheck
    from owl2.processing import Owl2Processor

data = typer.Typer(
    name="data",
    help="Check instruction data, look at single records, count and mix.",
    no_args_is_help=True,
    add_completion=False,
    epilog="Example: owl2 data check instructions.jsonl --images",
)
data.command(epilog="Example: owl2 data index shards --workers 8")(index)
data.command(epilog="Example: owl2 data pairs shards --sample 1000")(pairs)
data.command(epilog="Example: owl2 data scenes --out scenes --count 20 --difficulty easy")(scenes)
data.command(epilog="Example: owl2 data distorted --out data/distorted --count 3000")(distorted)

FILE = Annotated[Path, typer.Argument(metavar="F", help="LLaVA conversations or chat messages, JSON or JSON lines.")]
ROOT = Annotated[Path | None, typer.Option(metavar="DIR", help="Where images and videos lie; beside F by default.")]

EXAMPLES = 2
"""Number of records shown of each source of a mixture."""


@data.command(epilog="Example: owl2 data check instructions.jsonl --images --workers 8")
def check(
    file: Annotated[Path, typer.Argument(metavar="F", help="A file of records, or the recipe (YAML) of a mixture.")],
    root: ROOT = None,
    images: Annotated[bool, typer.Option("--images", help="Also open every image and video.")] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Let web addresses pass; they are not opened.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="DIR", help="Also count tokens.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest record in tokens; the model's context by default.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this source of a mixture; may be given several times."),
    ] = None,
    num_workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes.")] = 1,
) -> None:
    """List every problem of every record with its line number, and a summary. Exit code 1 if there is any."""
    from owl2.data.check import RecordCheck
    from owl2.data.formats import RecordFile
    from owl2.data.mixture import load_mixture_recipe, with_sources
    from owl2.data.mixture.check import SourceCheck
    from owl2.data.stats import is_recipe
    from owl2.data.tables import source_check_lines, summary_lines

    if model is None and max_length is not None:
        raise ValueError("--max-length needs a --model whose tokens are counted")
    if is_recipe(file) and (root is not None or allow_urls):
        raise ValueError(f"{file} is a recipe, which names the files of its sources: omit --root and --allow-urls")
    if source and not is_recipe(file):
        raise ValueError(f"{file} is not the recipe (.yaml) of a mixture, of which --source chooses")
    processor = None
    if model is not None:
        processor, context = _load_processor(model)
        max_length = max_length or context
    if not is_recipe(file):
        records = RecordCheck(RecordFile(file, root, allow_urls), images, processor, max_length)
        _run_check(records, len(records.records), file.name, num_workers)
        _print(summary_lines(records.summary))
        raise typer.Exit(1 if records.summary.faulty else 0)
    recipe = load_mixture_recipe(file)
    checks = []
    for each in (with_sources(recipe, source) if source else recipe).sources:
        with Console(stderr=True).status(f"reading {each.name}"):
            checks.append(SourceCheck(recipe, each.name, images, processor, max_length))
        _run_check(checks[-1], len(checks[-1]), each.name, num_workers)
        if checks[-1].error is not None:
            typer.echo(f"{printable(each.name)}: cannot be read: {printable(' '.join(checks[-1].error.split()))}")
    _print(source_check_lines(checks))
    raise typer.Exit(1 if any(each.is_faulty for each in checks) else 0)


@data.command(epilog="Example: owl2 data show instructions.jsonl --index 3 --model DIR")
def show(
    file: FILE,
    index: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the record, from 0.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR",
            help="Model whose template and tokens are used; without it, the published template and bytes.",
        ),
    ] = None,
    root: ROOT = None,
) -> None:
    """Print a record as the model gets it, with the tokens that it learns in colour, and its images."""
    from owl2.data.formats import RecordFile
    from owl2.data.preview import plain_processor, preview
    from owl2.data.printing import preview_texts

    records = RecordFile(file, root)
    if index >= len(records):
        raise ValueError(f"record {index} does not exist: {file} holds {len(records)}, numbered from 0")
    conversation = records[index]
    shown = preview(conversation, plain_processor() if model is None else _load_processor(model)[0])
    console = Console(highlight=False, soft_wrap=True)
    heading = f"record {index} ({conversation.id}), line {records.line(index)}"
    unit = "tokens" if model is not None else "tokens (bytes: no --model was given)"
    for text in preview_texts(shown, heading, unit, console.color_system is not None):
        console.print(text)


@data.command(epilog="Example: owl2 data stats instructions.jsonl --model DIR --out histograms")
def stats(
    file: Annotated[Path, typer.Argument(metavar="F", help="A file of records, or the recipe (YAML) of a mixture.")],
    root: ROOT = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="DIR", help="Also count tokens.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw histograms, as PNG files there.")] = None,
) -> None:
    """Count turns, images, characters and tokens of every record, and show them in a table."""
    from owl2.data.stats import gather_stats, together
    from owl2.data.tables import left_out_lines, stats_lines

    if out is not None:
        check_output_directory(out)
    sources = gather_stats(file, root, _load_processor(model)[0] if model is not None else None)
    shown = sources if len(sources) == 1 else {**sources, "all sources together": together(sources)}
    for number, (name, found) in enumerate(shown.items()):
        if number > 0:
            typer.echo()
        _print(stats_lines(name, found))
    for name, found in sources.items():
        _print(left_out_lines(name, found.rejected))
    if out is not None:
        from owl2.data.stats_plots import draw_stats

        for path in draw_stats(sources, out):
            typer.echo(f"wrote {path}")


@data.command(epilog="Example: owl2 data mix mixtures/table8 --limit 100")
def mix(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="The recipe of a mixture: a YAML file, or a name that `owl2 recipes` lists.",
            autocompletion=complete_mixture,
        ),
    ],
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Samples of the run; one epoch by default.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Look at the first N records of each source, cache nothing.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this source; may be given several times.")
    ] = None,
) -> None:
    """Show what a mixture yields of each source, next to the paper's Table 8, with examples."""
    from owl2.data.mixture import Mixture, load_mixture_recipe, with_sources
    from owl2.data.mixture.report import examples, missing_sources, yields
    from owl2.data.skipped import NO_LIMIT
    from owl2.data.tables import example_lines, left_out_lines, yield_lines

    recipe = load_mixture_recipe(file)
    mixture = Mixture(with_sources(recipe, source) if source else recipe, limit, NO_LIMIT)
    if limit is not None:
        typer.echo(f"Only the first {limit:,} records of each source:")
    _print(yield_lines(yields(mixture, samples)))
    missing = [] if source else missing_sources(mixture)
    if missing:
        typer.echo(f"\nSources of Table 8 that are not in the recipe: {', '.join(missing)}")
    for each in mixture.sources:
        _print(left_out_lines(each.name, mixture.records(each.name).rejected))
    for each in mixture.sources:
        for conversation in examples(mixture, each.name, EXAMPLES):
            _print(example_lines(each.name, conversation))


def _run_check(check: "RecordCheck | SourceCheck", records: int, name: str, num_workers: int) -> None:
    """Print what a check finds, with a bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    is_read = sys.stdout.isatty()  # else the findings go to a file or another program, and only the bar may be seen
    console = Console(stderr=not is_read, markup=False, emoji=False, highlight=False)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=hidden) as progress:
        task = progress.add_task(printable(name), total=records)
        for part in check.parts(num_workers):
            for finding in part.findings:
                line = f"{printable(finding.where)}: {finding.kind}: {printable(' '.join(finding.text.split()))}"
                console.print(line, soft_wrap=True) if is_read else typer.echo(line)
            progress.advance(task, part.summary.records)


def _load_processor(directory: str) -> "tuple[Owl2Processor, int]":
    """The processor of a model, and how many tokens its context holds."""
    from owl2.files import model_directory

    model_directory(directory)
    from owl2 import Owl2Config, Owl2Processor
    from owl2.checkpoints.inspect import checkpoint_layout

    checkpoint_layout(directory)
    path = Path(directory).expanduser()
    context = Owl2Config.from_pretrained(path).text_config.max_position_embeddings
    return Owl2Processor.from_pretrained(path), context


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
