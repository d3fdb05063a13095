"""`owl2 data`: look at instruction data before training on it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .pairs import index, pairs
from .printing import printable, thumbnail

if TYPE_CHECKING:
    from owl2.data.check import RecordCheck, Summary
    from owl2.data.mixture.check import SourceCheck
    from owl2.data.mixture.report import Yield
    from owl2.data.preview import Run
    from owl2.data.problems import Rejected
    from owl2.data.records import Conversation
    from owl2.data.stats import SourceStats
    from owl2.processing import Owl2Processor

data = typer.Typer(
    name="data",
    help="Check instruction data, look at single records, count and mix.",
    no_args_is_help=True,
    add_completion=False,
)
data.command()(index)
data.command()(pairs)

FILE = Annotated[Path, typer.Argument(metavar="F", help="LLaVA conversations or chat messages, JSON or JSON lines.")]
ROOT = Annotated[Path | None, typer.Option(metavar="DIR", help="Where images and videos lie; beside F by default.")]

NAMED = 20
"""Most records that are left out which are named on the screen."""

EXAMPLES = 2
"""Records that are shown of each source of a mixture."""

SUPERVISED = ("\N{LEFT DOUBLE ANGLE BRACKET}", "\N{RIGHT DOUBLE ANGLE BRACKET}")
"""Around supervised tokens where the output has no colours."""


@data.command()
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

    if model is None and max_length is not None:
        raise ValueError("--max-length needs a --model whose tokens are counted.")
    if is_recipe(file) and (root is not None or allow_urls):
        raise ValueError(f"{file} is a recipe, which names the files of its sources: leave --root, --allow-urls away.")
    if source and not is_recipe(file):
        raise ValueError(f"{file} is not the recipe (.yaml) of a mixture, of which --source chooses.")
    processor = None
    if model is not None:
        processor, context = _load_processor(model)
        max_length = max_length or context
    if not is_recipe(file):
        records = RecordCheck(RecordFile(file, root, allow_urls), images, processor, max_length)
        _run_check(records, len(records.records), file.name, num_workers)
        _print_summary(records.summary)
        raise typer.Exit(1 if records.summary.faulty else 0)
    recipe = load_mixture_recipe(file)
    checks = []
    for each in (with_sources(recipe, source) if source else recipe).sources:
        with Console(stderr=True).status(f"reading {each.name}"):
            checks.append(SourceCheck(recipe, each.name, images, processor, max_length))
        _run_check(checks[-1], len(checks[-1]), each.name, num_workers)
        if checks[-1].error is not None:
            typer.echo(f"{printable(each.name)}: cannot be read: {printable(' '.join(checks[-1].error.split()))}")
    _print_source_checks(checks)
    raise typer.Exit(1 if any(each.is_faulty for each in checks) else 0)


@data.command()
def show(
    file: FILE,
    index: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the record, from 0.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="DIR", help="Whose frame and tokens; else the published frame, in bytes."
        ),
    ] = None,
    root: ROOT = None,
) -> None:
    """Print a record as the model gets it, with the tokens that it learns in colour, and its images."""
    from rich.text import Text

    from owl2.data.formats import RecordFile
    from owl2.data.preview import plain_processor, preview

    records = RecordFile(file, root)
    if index >= len(records):
        raise ValueError(f"There is no record {index}: {file} holds {len(records)}, numbered from 0.")
    conversation = records[index]
    shown = preview(conversation, plain_processor() if model is None else _load_processor(model)[0])
    console = Console(highlight=False, soft_wrap=True)
    has_colors = console.color_system is not None
    tokens = sum(run.tokens for run in shown.runs)
    supervised = sum(run.tokens for run in shown.runs if run.is_supervised)
    marking = Text("in colour", "bold green") if has_colors else Text("between {} and {}".format(*SUPERVISED))
    heading = f"record {index} ({printable(conversation.id)}), line {records.line(index)}: "
    kind = "tokens" if model is not None else "tokens (bytes: no --model was given)"
    console.print(Text(f"{heading}{tokens} {kind}, {supervised} supervised, ").append_text(marking))
    for name, picture in zip(shown.media, shown.pictures, strict=True):
        console.print(Text(printable(name)))
        if has_colors:
            console.print(thumbnail(picture))
    console.print()
    console.print(Text.assemble(*(_styled(run, has_colors) for run in shown.runs)))


@data.command()
def stats(
    file: Annotated[Path, typer.Argument(metavar="F", help="A file of records, or the recipe (YAML) of a mixture.")],
    root: ROOT = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="DIR", help="Also count tokens.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw histograms, as PNG files there.")] = None,
) -> None:
    """Count turns, images, characters and tokens of every record, and show them in a table."""
    from owl2.data.stats import gather_stats, together

    sources = gather_stats(file, root, _load_processor(model)[0] if model is not None else None)
    shown = sources if len(sources) == 1 else {**sources, "all sources together": together(sources)}
    for number, (name, found) in enumerate(shown.items()):
        if number > 0:
            typer.echo()
        _print_stats(name, found)
    for name, found in sources.items():
        _print_left_out(name, found.rejected)
    if out is not None:
        from owl2.data.stats_plots import draw_stats

        for path in draw_stats(sources, out):
            typer.echo(f"wrote {path}")


@data.command()
def mix(
    file: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe of a mixture, a YAML file.")],
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
    """Show what a mixture yields of each source, beside the paper's Table 8, with examples."""
    from owl2.data.mixture import Mixture, load_mixture_recipe, with_sources
    from owl2.data.mixture.report import examples, missing_sources, yields
    from owl2.data.skipped import NO_LIMIT

    recipe = load_mixture_recipe(file)
    mixture = Mixture(with_sources(recipe, source) if source else recipe, limit, NO_LIMIT)
    if limit is not None:
        typer.echo(f"Only the first {limit:,} records of each source:")
    _print_yields(yields(mixture, samples))
    missing = [] if source else missing_sources(mixture)
    if missing:
        typer.echo(f"\nSources of Table 8 that are not in the recipe: {', '.join(missing)}")
    for each in mixture.sources:
        _print_left_out(each.name, mixture.records(each.name).rejected)
    for each in mixture.sources:
        for conversation in examples(mixture, each.name, EXAMPLES):
            _print_example(each.name, conversation)


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


def _print_summary(summary: "Summary") -> None:
    if summary.kinds:
        typer.echo()
    for kind, count in summary.kinds.most_common():
        typer.echo(f"{count:>9,}  {kind}")
    if summary.unopened:
        typer.echo(f"{summary.unopened:>9,}  web addresses not opened")
    typer.echo(f"{summary.records:,} records, {summary.faulty:,} with problems")


def _print_source_checks(checks: "list[SourceCheck]") -> None:
    from owl2.data.mixture.check import OF_FILES

    if any(each.is_faulty for each in checks):
        typer.echo()
    width = max(len(name) for name in ("source", *(each.name for each in checks))) + 2
    names = ("records", "left out", *(kind.split()[0] for kind in OF_FILES), "other")
    typer.echo(f"{'source':<{width}}" + "".join(f"{name:>12}" for name in names))
    for each in checks:
        summary, by_rule = each.summary, each.rejected.records
        of_files = [summary.kinds[kind] for kind in OF_FILES]
        other = summary.kinds.total() - sum(of_files)
        counts = (summary.records + by_rule, summary.rejected + by_rule, *of_files, other)
        state = "  cannot be read" if each.error is not None else ""
        typer.echo(f"{printable(each.name):<{width}}" + "".join(f"{count:>12,}" for count in counts) + state)
    for each in checks:
        _print_left_out(each.name, each.rejected)
    typer.echo(f"\n{len(checks):,} sources, {sum(each.is_faulty for each in checks):,} with problems")


def _print_stats(name: str, found: "SourceStats") -> None:
    from owl2.data.stats import summarize

    typer.echo(f"{printable(name)}: {found.records:,} records")
    typer.echo(f"  {'a record':<20}{'mean':>10}{'median':>10}{'95%':>10}{'most':>10}{'total':>16}")
    for value, summary in summarize(found).items():
        typer.echo(
            f"  {value:<20}{summary.mean:>10,.1f}{summary.median:>10,.0f}{summary.percentile_95:>10,.0f}"
            f"{summary.most:>10,}{summary.total:>16,}"
        )


def _print_yields(rows: "list[Yield]") -> None:
    width = max(len(row.source) for row in rows) + 2
    names = ("found", "Table 8", "used", "weight", "share", "samples", "epochs")
    typer.echo(f"{'source':<{width}}" + "".join(f"{name:>11}" for name in names))
    for row in rows:
        expected = "-" if row.table_8 is None else f"{row.table_8:,}"
        typer.echo(
            f"{printable(row.source):<{width}}{row.found:>11,}{expected:>11}{row.used:>11,}{row.weight:>11,.6g}"
            f"{row.share:>11.2%}{row.samples:>11,.0f}{row.epochs:>11.3f}"
        )


def _print_left_out(name: str, rejected: "Rejected") -> None:
    if not rejected.records:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in rejected.kinds.items())
    typer.echo(f"\n{name}: records left out: {rejected.records:,} ({kinds})")
    for text in rejected.named[:NAMED]:
        typer.echo(f"  {printable(' '.join(text.split()))}")
    if rejected.records > NAMED:
        typer.echo(f"  ... and {rejected.records - NAMED:,} more: `owl2 data check` lists those of a file")


def _print_example(source: str, conversation: "Conversation") -> None:
    typer.echo(f"\n{printable(source)}: {printable(conversation.id)}")
    for image in conversation.images:
        state = "" if image.startswith("data:") or Path(image).is_file() else " (missing)"
        typer.echo(f"  image: {printable(image[:200])}{state}")
    for message in conversation.messages:
        words = [part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in message["content"]]
        text = " ".join(" ".join(words).split())
        typer.echo(f"  {message['role']}: {printable(text if len(text) <= 200 else text[:200] + '...')}")


def _styled(run: "Run", has_colors: bool) -> tuple[str, str]:
    if run.is_visual:
        return f"[{run.text}, {run.tokens} tokens]", "cyan"
    text = printable(run.text)
    if run.is_supervised and not has_colors:
        text = f"{SUPERVISED[0]}{text}{SUPERVISED[1]}"
    return text, "bold green" if run.is_supervised else ""


def _load_processor(directory: str) -> "tuple[Owl2Processor, int]":
    """The processor of a model, and how many tokens its context holds."""
    from owl2 import Owl2Config, Owl2Processor
    from owl2.checkpoints.inspect import checkpoint_layout

    checkpoint_layout(directory)
    path = Path(directory).expanduser()
    context = Owl2Config.from_pretrained(path).text_config.max_position_embeddings
    return Owl2Processor.from_pretrained(path), context
