"""The question that an error asks about a mistyped name."""

from collections.abc import Sequence


def did_you_mean(near: Sequence[str]) -> str:
    """A question with the known names that are spelt alike, and a space for what follows; empty if there are none."""
    return f"did you mean {' or '.join(near)}? " if near else ""
