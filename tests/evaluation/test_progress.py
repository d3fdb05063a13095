"""A bar is for a terminal: a file of what was printed has none, nor an empty line in its place."""

import io

import pytest
from rich.console import Console

from owl2.evaluation.progress import sample_progress


@pytest.mark.parametrize(("is_shown", "is_terminal", "has_bar"), [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0)])
def test_a_bar_is_shown_on_a_terminal_alone(is_shown: int, is_terminal: int, has_bar: int) -> None:
    printed = io.StringIO()
    with pytest.raises(ValueError), sample_progress(bool(is_shown), _console(printed, bool(is_terminal))) as progress:
        progress.advance(progress.add_task("questions", total=4))
        raise ValueError("stopped")
    assert ("questions" in printed.getvalue()) == bool(has_bar)
    assert has_bar or printed.getvalue() == ""


def _console(file: io.StringIO, is_terminal: bool) -> Console:
    return Console(file=file, force_terminal=is_terminal, width=100)
