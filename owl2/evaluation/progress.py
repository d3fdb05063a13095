"""The progress bar of long work over samples."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def sample_progress(is_shown: bool, console: Console | None = None) -> Progress:
    """Shows how many samples are done, the time, and the time left.

    Args:
        is_shown: Nothing is shown without it, nor where there is no terminal.
        console: The standard output by default.
    """
    console = console or Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (is_shown and console.is_terminal),
    )
