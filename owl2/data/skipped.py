"""Broken samples: counted by source and kind, shown, and refused when they become too many."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class Fault(StrEnum):
    """Kinds of broken samples, as they are counted."""

    MISSING_IMAGE = "image missing"
    DAMAGED_IMAGE = "image damaged"
    OVERSIZED_IMAGE = "image oversized"
    REFUSED = "path, link or address refused"
    MISSING_CAPTION = "caption missing"
    EMPTY_CAPTION = "caption empty"
    INVALID_CAPTION = "caption not valid text"
    CONTROL_TOKEN = "control token in a text"
    NOT_ENCODED = "caption cannot be encoded"
    DUPLICATE_KEY = "key more than once"
    UNREADABLE = "record unreadable"


class InvalidSample(ValueError):
    """A pair or record that cannot be trained on. It is skipped and counted."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        return InvalidSample, (self.fault, str(self))


class Skip(NamedTuple):
    """A broken sample that was passed over."""

    source: str
    fault: Fault
    text: str


class SkipLimit(NamedTuple):
    """A source is refused when more than this share of its samples is broken, and at least `minimum` of them."""

    share: float = 0.05
    minimum: int = 100

    def refusal(self, source: str, what: str, tried: int, broken: int, kinds: Mapping[str, int]) -> str | None:
        """The reason why a source is refused, if it is.

        Args:
            what: "pairs" or "records".
            tried: Number of samples that were read.
            broken: Number of them that are broken.
            kinds: Number of faults of each kind.
        """
        if broken < self.minimum or broken <= self.share * tried:
            return None
        counts = ", ".join(f"{kind}: {count}" for kind, count in Counter(kinds).most_common())
        return f"{broken} of {tried} {what} of the source {source!r} are broken, more than {self.share:.1%} ({counts})"


NO_LIMIT = SkipLimit(share=1.0)
"""No limit, to look at data however broken it is."""


class SkipCounter:
    """Counts what was read and what was skipped on this rank.

    Raises:
        ValueError: A source exceeds the limit (raised by `add`).
    """

    def __init__(self, limit: SkipLimit) -> None:
        self.limit = limit
        self.read: Counter[str] = Counter()
        self.skipped: dict[str, Counter[str]] = {}

    def add(self, sources: Iterable[str], skips: Iterable[Skip]) -> None:
        """Count pairs that were read, by their sources, and pairs that were skipped."""
        self.read.update(sources)
        for skip in skips:
            kinds = self.skipped.setdefault(skip.source, Counter())
            kinds[skip.fault] += 1
            if kinds[skip.fault] == 1:
                logger.warning("skipped, the first of its kind in %s: %s: %s", skip.source, skip.fault, skip.text)
            self._refuse_too_many(skip)

    def _refuse_too_many(self, last: Skip) -> None:
        kinds = self.skipped[last.source]
        skipped = kinds.total()
        tried = skipped + self.read[last.source]
        if refusal := self.limit.refusal(last.source, "pairs", tried, skipped, kinds):
            raise ValueError(f"{refusal}. The last: {last.text}")

    def state_dict(self) -> dict[str, Any]:
        """The counts, as JSON."""
        skipped = {
            source: {str(fault): count for fault, count in kinds.items()} for source, kinds in self.skipped.items()
        }
        return {"read": dict(self.read), "skipped": skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.read = Counter(state["read"])
        self.skipped = {name: Counter(kinds) for name, kinds in state["skipped"].items()}
