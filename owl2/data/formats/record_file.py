"""Files of instruction records: a JSON list, or JSON lines, read one record at a time through a memory map."""

import mmap
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from owl2.data.media import MediaRoot
from owl2.data.problems import Problem, ProblemKind, shown
from owl2.data.records import Conversation
from owl2.files import parse_json
from owl2.processing.image_loading import check_local_path

from .reading import FORMS, holds_records, read_record
from .record_offsets import (
    RecordOffsets,
    first_byte,
    has_objects_over_lines,
    spans_of_lines,
    spans_of_list,
    spans_of_objects,
)
from .text_files import map_text


class RecordFile:
    """The records of a file, read when they are asked for.

    Both forms of records (`conversations`, `messages`) may be in all kinds of files: a JSON list, one record a line,
    records over several lines, a list or records by their names inside one object. Blank lines are not records. Only
    the offsets of the records are kept in memory, and processes that are forked share the pages of the file.

    Args:
        path: The file.
        root: The directory of the images and videos; that of the file by default.
        allow_urls: Let http and https addresses of images and videos pass; owl2 itself fetches nothing.
        spans: Spans of an earlier `RecordFile` of the same contents, so that the file is not searched again.

    Attributes:
        unread: How many of the examined records have a field that is not read, by its name. Fields that mean
            something to a model are problems instead.

    Raises:
        ValueError: The file is missing, or has no records; the root is not a directory.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        root: str | os.PathLike | None = None,
        allow_urls: bool = False,
        spans: RecordOffsets | None = None,
    ) -> None:
        self.path = Path(check_local_path(path, "file of records"))
        self.unread: Counter[str] = Counter()
        self.root = MediaRoot(self.path.parent if root is None else root, allow_urls)
        self._buffer = map_text(self.path, "file of records")
        self.is_list = is_list(self._buffer)
        self.spans = spans or find_records(self._buffer, self.path, FORMS)
        if not len(self):
            raise ValueError(f"the file of records {self.path} holds no records")

    def __len__(self) -> int:
        return len(self.spans.starts)

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Conversation:
        """A record as a conversation: images in their order, videos as the `path` of their parts.

        Raises:
            ValueError: Everything that is wrong with it, with the file and the line.
        """
        conversation, problems = self.examine(index)
        if conversation is None:
            listed = "; ".join(f"{problem.kind}: {problem.text}" for problem in problems)
            raise ValueError(f"{self.path}, line {self.line(index)}: {listed}")
        return conversation

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordFile, (self.path, self.root.root, self.root.allow_urls)

    def line(self, index: int) -> int:
        """The line, counted from 1, in which a record begins."""
        return int(self.spans.lines[index])

    def where(self, index: int) -> str:
        """The file and the line in which a record begins."""
        return f"{self.path}:{self.line(index)}"

    def examine(self, index: int) -> tuple[Conversation | None, list[Problem]]:
        """A record as a conversation, or all its problems.

        Raises:
            IndexError: The file has no such record.
        """
        start, end = int(self.spans.starts[index]), int(self.spans.ends[index])
        record = _parse(self._buffer[start:end])
        if isinstance(record, Problem):
            if self.is_list and end == len(self._buffer):
                record = Problem(record.kind, f"{record.text}; the rest of the file was not read")
            return None, [record]
        draft = read_record(record, str(record.get("id", index)))
        self.unread.update(draft.unread)
        conversation = draft.finish(self.root) if draft.messages or not draft.problems else None
        return conversation, draft.problems


def is_list(buffer: mmap.mmap) -> bool:
    """Whether a file of JSON is a list."""
    first = first_byte(buffer)
    return buffer[first : first + 4096].lstrip().startswith(b"[")


def find_records(buffer: mmap.mmap, path: Path, fields: Sequence[str]) -> RecordOffsets:
    """Finds the records of a file: in a list, one a line, over several lines, or inside a single object.

    Args:
        fields: Names, one of which every record has.

    Raises:
        ValueError: The file is a single object in which the records cannot be told from the rest.
    """
    first = first_byte(buffer)
    if is_list(buffer):
        return spans_of_list(buffer, first)
    over_lines = has_objects_over_lines(buffer, first)
    spans = (spans_of_objects if over_lines else spans_of_lines)(buffer, first)
    if len(spans.starts) != 1:
        return spans
    whole = _parse(buffer[spans.starts[0] : spans.ends[0]])
    if isinstance(whole, Problem) or any(field in whole for field in fields):
        return spans
    if not any(isinstance(value, list | dict) for value in whole.values()):
        return spans
    if not holds_records(whole, fields):
        raise ValueError(
            f"the file of records {path} is one object with the keys {shown(list(whole))}, and it is not clear which "
            "of them holds the records: write their list alone"
        )
    return spans_of_objects(buffer, first, inside=True)


def _parse(octets: bytes) -> dict[str, Any] | Problem:
    """The fields of a record."""
    try:
        record = parse_json(octets.decode("utf-8"))
    except UnicodeDecodeError as error:
        text = f"byte {error.start} of the record is {octets[error.start]:#04x}, which is not UTF-8"
        return Problem(ProblemKind.INVALID_UTF8, text)
    except JSONDecodeError as error:
        return Problem(ProblemKind.INVALID_JSON, f"{error.msg}, at character {error.pos} of the record")
    except ValueError as error:  # numbers of thousands of digits, lists of thousands of lists, a key twice
        return Problem(ProblemKind.INVALID_JSON, str(error))
    if not isinstance(record, dict):
        return Problem(ProblemKind.MALFORMED, f"a record is an object, this one is {shown(record)}")
    return record
