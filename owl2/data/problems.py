"""The problems that a record may have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

NAMED = 100
"""The number of rejected records that are named; all are counted."""


class ProblemKind(StrEnum):
    """Kinds of problems, as a summary counts them."""

    INVALID_UTF8 = "invalid UTF-8"
    INVALID_JSON = "invalid JSON"
    MALFORMED = "malformed record"
    ROLES = "roles out of order"
    EMPTY_TURN = "empty turn"
    NO_ANSWER = "no assistant turn"
    NOT_READ = "field that is not read"
    CONTROL_TOKEN = "control token in a text"
    PLACEHOLDERS = "placeholders and media disagree"
    REFUSED = "path or address refused"
    MISSING = "missing file"
    UNREADABLE = "unreadable file"
    OVERSIZED = "oversized image"
    NO_REGION = "no usable region"
    TOO_LONG = "over-long"
    NOT_ENCODED = "cannot be encoded"


OF_MEDIA = (
    ProblemKind.NOT_READ,
    ProblemKind.PLACEHOLDERS,
    ProblemKind.REFUSED,
    ProblemKind.MISSING,
    ProblemKind.UNREADABLE,
)
"""Kinds of problems that mostly concern an image or a video."""


class Problem(NamedTuple):
    """One problem of a record, in words that name the offending value."""

    kind: ProblemKind
    text: str


@dataclass
class Rejected:
    """Invalid records of a source.

    Attributes:
        records: Their number.
        kinds: Number of their problems by kind.
        named: Place and problems of the first of them.
    """

    records: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)

    def add(self, where: str, problems: Sequence[Problem]) -> None:
        """Counts a record, and names it unless `NAMED` records are named already."""
        self.records += 1
        self.kinds = dict(Counter(self.kinds) + Counter(str(problem.kind) for problem in problems))
        if len(self.named) < NAMED:
            self.named.append(f"{where}: " + "; ".join(f"{problem.kind}: {problem.text}" for problem in problems))

    def to_json(self) -> dict[str, Any]:
        return {"rejected": asdict(self)}


def shown(value: Any) -> str:
    """A value as an error shows it: on one line, not too long, control characters escaped."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
