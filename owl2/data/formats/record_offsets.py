"""Finds the records of a file without parsing them.

The bytes are a memory map. For each record, the offsets of its first byte and of the byte after its last and its line
number are kept (int64 arrays [records]).
"""

import mmap
import re
from typing import NamedTuple

import numpy as np

from owl2.files import parse_json

_CHUNK = 1 << 24  # bytes searched for line breaks at a time
_LONGEST_BLANK = 64  # a longer line is a record, if maybe an empty one

# Everything up to the next brace that is not in a string. JSON strings hold no raw line breaks, so a missing quotation
# mark ends the search at the end of its line instead of turning the rest of the file inside out.
_UP_TO_BRACE = re.compile(rb'(?:[^"{}]++|"(?:[^"\\\r\n]++|\\.)*+")*+[{}]')


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class RecordOffsets(NamedTuple):
    """First byte, byte after the last, and line number (from 1) of each record."""

    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray


def first_byte(buffer: mmap.mmap) -> int:
    """The offset at which text begins: after a byte order mark, if there is one."""
    return len(_BYTE_ORDER_MARK) if buffer[: len(_BYTE_ORDER_MARK)] == _BYTE_ORDER_MARK else 0


def spans_of_lines(buffer: mmap.mmap, first: int) -> RecordOffsets:
    """Records of JSON lines from byte `first` on: every line that is not blank."""
    breaks = _line_breaks(buffer)
    starts = np.concatenate(([first], breaks + 1))
    ends = np.concatenate((breaks, [len(buffer)]))
    blank = [
        index
        for index in np.flatnonzero(ends - starts <= _LONGEST_BLANK)
        if not buffer[starts[index] : ends[index]].strip()
    ]
    lines = np.arange(1, len(starts) + 1)
    return RecordOffsets(*(np.delete(values, blank) for values in (starts, ends, lines)))


def has_objects_over_lines(buffer: mmap.mmap, first: int) -> bool:
    """Whether the first record is an object that does not end in its line, and is valid."""
    start = _first_that_is_not_blank(buffer, first)
    if buffer[start : start + 1] != b"{":
        return False
    depth, end = 0, start
    while match := _UP_TO_BRACE.match(buffer, end):
        end = match.end()
        depth += 1 if buffer[end - 1] == ord("{") else -1
        if depth == 0:
            break
    if depth or not {*b"\r\n"} & {*buffer[start:end]}:
        return False
    try:
        parse_json(buffer[start:end])
    except ValueError:
        return False
    return True


def spans_of_objects(buffer: mmap.mmap, first: int, inside: bool = False) -> RecordOffsets:
    """Records that are objects one after the other, over any number of lines.

    Anything between them but commas, and an object without an end, are spans too, which cannot be parsed.

    Args:
        inside: Whether the records lie inside one object, in which anything may stand between them.
    """
    level = 2 if inside else 1
    starts: list[int] = []
    ends: list[int] = []
    position, depth, end_of_last = first, 0, first
    while match := _UP_TO_BRACE.match(buffer, position):
        position = match.end()
        opens = buffer[position - 1] == ord("{")
        if opens and depth + 1 == level:
            if not inside and _without_spaces(buffer[end_of_last : position - 1]) not in (b"", b","):
                starts.append(_first_that_is_not_blank(buffer, end_of_last))
                ends.append(position - 1)
            starts.append(position - 1)
        elif not opens and depth == level:
            ends.append(position)
            end_of_last = position
        depth += 1 if opens else -1
        if depth < 0:
            break
    if len(ends) < len(starts):
        ends.append(len(buffer))
    elif not inside and _without_spaces(buffer[end_of_last:]):
        starts.append(_first_that_is_not_blank(buffer, end_of_last))
        ends.append(len(buffer))
    lines = np.searchsorted(_line_breaks(buffer), starts) + 1
    return RecordOffsets(np.array(starts, np.int64), np.array(ends, np.int64), lines)


def spans_of_list(buffer: mmap.mmap, first: int) -> RecordOffsets:
    """Records of a JSON list whose bracket opens at or after byte `first`: its objects.

    Anything between them but a single comma, and the rest of a list that is cut short, are spans too: they cannot be
    parsed, and so they are reported where they are.
    """
    starts: list[int] = []
    ends: list[int] = []
    position, depth, end_of_last = first, 0, first
    while match := _UP_TO_BRACE.match(buffer, position):
        position = match.end()
        opens = buffer[position - 1] == ord("{")
        depth += 1 if opens else -1
        if depth == 1 and opens:
            separator = b"," if starts else b"["
            if _without_spaces(buffer[end_of_last : position - 1]) != separator:
                starts.append(_first_that_is_not_blank(buffer, end_of_last))
                ends.append(position - 1)
            starts.append(position - 1)
        elif depth == 0:
            ends.append(position)
            end_of_last = position
        elif depth < 0:
            break
    if depth > 0:
        ends.append(len(buffer))
    elif _without_spaces(buffer[end_of_last:]) != (b"]" if starts else b"[]"):
        starts.append(_first_that_is_not_blank(buffer, end_of_last))
        ends.append(len(buffer))
    lines = np.searchsorted(_line_breaks(buffer), starts) + 1
    return RecordOffsets(np.array(starts, np.int64), np.array(ends, np.int64), lines)


def _line_breaks(buffer: mmap.mmap) -> np.ndarray:
    """Offsets of all line breaks: line feeds, or carriage returns in a file without line feeds."""
    octets = np.frombuffer(buffer, np.uint8)
    kind = ord("\n") if buffer.find(b"\n") >= 0 else ord("\r")
    chunks = [np.flatnonzero(octets[start : start + _CHUNK] == kind) + start for start in range(0, len(octets), _CHUNK)]
    return np.concatenate(chunks)


def _without_spaces(piece: bytes) -> bytes:
    return b"".join(piece.split())


def _first_that_is_not_blank(buffer: mmap.mmap, start: int) -> int:
    found = re.compile(rb"\S").search(buffer, start)
    return found.start() if found else max(len(buffer) - 1, 0)
