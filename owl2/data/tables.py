"""What `owl2 data` shows of checks, counts and mixtures, as lines of text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .check import CheckSummary
from .mixture.check import OF_FILES, SourceCheck
from .mixture.report import Yield
from .printing import printable
from .problems import Rejected
from .records import Conversation
from .stats import SourceStats, summarize

NAMED = 20
"""Most records that are left out which are named on the screen."""


def summary_lines(summary: CheckSummary) -> Iterator[str]:
    """The kinds of problems with their counts, and how many records have any."""
    if summary.kinds:
        yield ""
    for kind, count in summary.kinds.most_common():
        yield f"{count:>9,}  {kind}"
    if summary.unopened:
        yield f"{summary.unopened:>9,}  web addresses not opened"
    for name, count in summary.unread.most_common(NAMED):
        yield f"{count:>9,}  with the field {printable(repr(name))}, which is not read"
    yield f"{summary.records:,} records, {summary.faulty:,} with problems"


def source_check_lines(checks: Sequence[SourceCheck]) -> Iterator[str]:
    """A row of counts for each source of a mixture, and what it leaves out."""
    if any(each.is_faulty for each in checks):
        yield ""
    width = max(len(name) for name in ("source", *(each.name for each in checks))) + 2
    names = ("records", "left out", *(kind.split()[0] for kind in OF_FILES), "other")
    yield f"{'source':<{width}}" + "".join(f"{name:>12}" for name in names)
    for each in checks:
        summary, by_rule = each.summary, each.rejected.records
        of_files = [summary.kinds[kind] for kind in OF_FILES]
        other = summary.kinds.total() - sum(of_files)
        counts = (summary.records + by_rule, summary.rejected + by_rule, *of_files, other)
        state = "  cannot be read" if each.error is not None else ""
        yield f"{printable(each.name):<{width}}" + "".join(f"{count:>12,}" for count in counts) + state
    for each in checks:
        yield from left_out_lines(each.name, each.rejected)
    yield f"\n{len(checks):,} sources, {sum(each.is_faulty for each in checks):,} with problems"


def stats_lines(name: str, found: SourceStats) -> Iterator[str]:
    """Mean, median, 95th percentile, maximum and total of what is counted of a source."""
    yield f"{printable(name)}: {found.records:,} records"
    yield f"  {'a record':<20}{'mean':>10}{'median':>10}{'95%':>10}{'most':>10}{'total':>16}"
    for value, summary in summarize(found).items():
        yield (
            f"  {value:<20}{summary.mean:>10,.1f}{summary.median:>10,.0f}{summary.percentile_95:>10,.0f}"
            f"{summary.most:>10,}{summary.total:>16,}"
        )


def yield_lines(rows: Sequence[Yield]) -> Iterator[str]:
    """What each source of a mixture yields, next to Table 8."""
    width = max(len(row.source) for row in rows) + 2
    names = ("found", "Table 8", "used", "weight", "share", "samples", "epochs")
    yield f"{'source':<{width}}" + "".join(f"{name:>11}" for name in names)
    for row in rows:
        expected = "-" if row.table_8 is None else f"{row.table_8:,}"
        yield (
            f"{printable(row.source):<{width}}{row.found:>11,}{expected:>11}{row.used:>11,}{row.weight:>11,.6g}"
            f"{row.share:>11.2%}{row.samples:>11,.0f}{row.epochs:>11.3f}"
        )


def left_out_lines(name: str, rejected: Rejected) -> Iterator[str]:
    """How many records a source leaves out and why; nothing if it leaves out none."""
    if not rejected.records:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in rejected.kinds.items())
    yield f"\n{name}: records left out: {rejected.records:,} ({kinds})"
    for text in rejected.named[:NAMED]:
        yield f"  {printable(' '.join(text.split()))}"
    if rejected.records > NAMED:
        yield f"  ... and {rejected.records - NAMED:,} more: `owl2 data check` lists those of a file"


def example_lines(source: str, conversation: Conversation) -> Iterator[str]:
    """A record, shortened."""
    yield f"\n{printable(source)}: {printable(conversation.id)}"
    for image in conversation.images:
        state = "" if image.startswith("data:") or Path(image).is_file() else " (missing)"
        yield f"  image: {printable(image[:200])}{state}"
    for message in conversation.messages:
        words = [part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in message["content"]]
        text = " ".join(" ".join(words).split())
        yield f"  {message['role']}: {printable(text if len(text) <= 200 else text[:200] + '...')}"
