"""What can be wrong with a record."""

from enum import StrEnum
from typing import Any, NamedTuple


class ProblemKind(StrEnum):
    """Kinds of problems, as a summary counts them."""

    INVALID_UTF8 = "invalid UTF-8"
    INVALID_JSON = "invalid JSON"
    MALFORMED = "malformed record"
    ROLES = "roles out of order"
    EMPTY_TURN = "empty turn"
    NO_ANSWER = "no assistant turn"
    PLACEHOLDERS = "placeholders and media disagree"
    REFUSED = "path or address refused"
    MISSING = "missing file"
    UNREADABLE = "unreadable file"
    OVERSIZED = "oversized image"
    TOO_LONG = "over-long"
    NOT_ENCODED = "cannot be encoded"


class Problem(NamedTuple):
    """One problem of a record, in words that name the offending value."""

    kind: ProblemKind
    text: str


def shown(value: Any) -> str:
    """A value as an error shows it: on one line, not too long, control characters escaped."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
