"""The common parts of several benchmarks: instructions, ways to read files, places of COCO's images, means by kind."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from owl2.data.annotations import Row, image_path, line_rows, rows
from owl2.evaluation.task import Prediction, Scores

Kind = TypeVar("Kind", str, int)

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""The instruction to answer shortly (specification, 2.4 and 5)."""


def coco_val2014(root: Path, name: str, row: Row) -> Path:
    """An image of COCO val2014 by its file name."""
    return Path(image_path(root / "coco" / "val2014", name, row))


def list_or_line_rows(path: Path) -> Iterator[Row]:
    """The records of a JSON list, or of a file of one record a line, whatever its name says."""
    with path.open("rb") as file:
        is_list = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return rows(path) if is_list else (row for _, row in line_rows(path))


@contextmanager
def naming_file_errors(path: Path) -> Iterator[None]:
    """Names the file in errors of reading it inside the context.

    Raises:
        ValueError: The file is not UTF-8, or not the table that it should be.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}: {error.reason}") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a table: {error}") from error


def verbatim(row: Row, name: str) -> str:
    """A text that must not be empty, including the white space around it."""
    row.text(name)
    return row.string(name)


def identifier(row: Row, name: str) -> str:
    """A name that some files write as a text and others as a number."""
    value = row.values.get(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text(name)


def only_judged(records: Sequence[Prediction], protocol: str) -> Scores:
    """The scorer of benchmarks all of whose protocols need a judge."""
    raise ValueError(f"{protocol} needs a judge: it cannot score {len(records)} records alone")


def means_by(kinds: Sequence[Kind], scores: Sequence[float]) -> dict[str, float]:
    """The mean of the scores of each kind, kinds in their order."""
    found = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        found[kind].append(score)
    return {str(kind): fmean(found[kind]) for kind in sorted(found)}
