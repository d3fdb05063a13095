"""What several benchmarks share: instructions, where COCO's images lie, means by kind."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from owl2.data.sources.annotations import Row, image_path

from ..task import Record, Scores

Kind = TypeVar("Kind", str, int)

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""Specification, 2.4 and 5."""


def coco_val2014(root: Path, name: str, row: Row) -> Path:
    """An image of COCO val2014 by its file name."""
    return Path(image_path(root / "coco" / "val2014", name, row))


def verbatim(row: Row, name: str) -> str:
    """A text that must not be empty, with the white space around it."""
    row.text(name)
    return row.string(name)


def only_judged(records: Sequence[Record], protocol: str) -> Scores:
    """The scorer of benchmarks whose every protocol needs a judge."""
    raise ValueError(f"{protocol} needs a judge: it cannot score {len(records)} records alone")


def means_by(kinds: Sequence[Kind], scores: Sequence[float]) -> dict[str, float]:
    """The mean of the scores of each kind, kinds in their order."""
    found = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        found[kind].append(score)
    return {str(kind): fmean(found[kind]) for kind in sorted(found)}
