"""Reading annotation files so that every error names the file and the record, and no path leaves the image root.

Records are counted from 1. Files are trusted to be large, not to be right: whatever is missing, of another type or
empty is a `ValueError`. Nothing here unpickles.
"""

import re
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from owl2.files import parse_json

AnyPath = str | PathLike[str]

LARGEST_NUMBER = 1e9  # more than any count of pixels


class Row:
    """One record of an annotation file.

    Args:
        values: The JSON object.
        where: File and number of the record, which errors begin with.

    Raises:
        ValueError: `values` is not a JSON object; a method finds that the field is missing or of another type.
    """

    def __init__(self, values: Any, where: str) -> None:
        self.where = where
        if not isinstance(values, dict):
            raise self.error(f"expected a JSON object, found {values!r:.100}")
        self.values = values

    def error(self, problem: str) -> ValueError:
        """The error to raise about this record."""
        return ValueError(f"{self.where}: {problem}")

    def string(self, name: str) -> str:
        """A string, which may be empty."""
        return self._encodable(name, self._typed(name, "a string", str))

    def text(self, name: str) -> str:
        """A string with something in it, without the white space around it."""
        value = self.string(name).strip()
        if not value:
            raise self.error(f"{name!r} is empty")
        return value

    def integer(self, name: str) -> int:
        """A whole number; 5.0, as it often stands in tables with empty cells, is 5."""
        value = self._typed(name, "an integer", int, float)
        if isinstance(value, float) and not value.is_integer():
            raise self.error(f"{name!r} is {value!r}, not an integer")
        return int(value)

    def integer_in_text(self, name: str) -> int:
        """A whole number in a text cell of a table, written as 5 or 5.0."""
        text = self.text(name)
        if not re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text):
            raise self.error(f"{name!r} is {text!r:.60}, not an integer")
        return int(text.partition(".")[0])

    def number(self, name: str) -> float:
        """A finite number, of any sign."""
        value = self._typed(name, "a number", int, float)
        if not abs(value) < LARGEST_NUMBER:
            raise self.error(f"{name!r} is {value!r:.60}, not a number below {LARGEST_NUMBER:g}")
        return value

    def positive(self, name: str) -> float:
        """A finite number above 0."""
        value = self.number(name)
        if value <= 0:
            raise self.error(f"{name!r} is {value}, not above 0")
        return value

    def numbers(self, name: str, length: int) -> list[float]:
        """A list of `count` finite numbers."""
        values = self.items(name)
        named = {f"{name}[{index}]": value for index, value in enumerate(values)}
        if len(values) != length:
            raise self.error(f"{name!r} is {values!r:.100}, not {length} numbers")
        return [Row(named, self.where).number(each) for each in named]

    def boolean(self, name: str) -> bool:
        return self._typed(name, "true or false", bool)

    def items(self, name: str) -> list[Any]:
        return self._typed(name, "a list", list)

    def texts(self, name: str) -> list[str]:
        """A list of strings, none empty, without the white space around them."""
        values = self.items(name)
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                raise self.error(f"{name}[{index}] is {value!r:.100}, not a text")
        return [self._encodable(f"{name}[{index}]", value).strip() for index, value in enumerate(values)]

    def rows(self, name: str) -> list["Row"]:
        """A list of JSON objects."""
        return [Row(value, f"{self.where}, {name}[{index}]") for index, value in enumerate(self.items(name))]

    def _encodable(self, name: str, value: str) -> str:
        """The value, unless it holds half a character (`\\ud83d` alone), which no tokenizer can encode."""
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"{name!r} is not valid Unicode at character {error.start}: {error.reason}") from error
        return value

    def _typed(self, name: str, description: str, *types: type) -> Any:
        if name not in self.values:
            raise self.error(f"has no {name!r}; it has {sorted(self.values)!r:.200}")
        value = self.values[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self.error(f"{name!r} is {value!r:.100}, not {description}")
        return value


def read_json(path: AnyPath) -> Any:
    """The contents of a JSON file.

    Raises:
        ValueError: It is not valid JSON or not UTF-8.
    """
    return _parse(Path(path).read_bytes(), str(path))


def rows(path: AnyPath, key: str | None = None) -> Iterator[Row]:
    """The records of a JSON list or, with `key`, of the list that the file's JSON object has under that key."""
    contents = read_json(path)
    values = Row(contents, str(path)).items(key) if key is not None else contents
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a JSON list, found {values!r:.100}")
    yield from numbered(values, path)


def numbered(values: Iterable[Any], path: AnyPath) -> Iterator[Row]:
    """The values as records 1, 2, ... of the file."""
    for number, value in enumerate(values, start=1):
        yield Row(value, _where(path, number))


def keyed_rows(path: AnyPath) -> Iterator[tuple[str, Row]]:
    """The keys and records of a JSON object of objects."""
    for number, (key, value) in enumerate(Row(read_json(path), str(path)).values.items(), start=1):
        yield key, Row(value, f"{_where(path, number)} ({key!r:.60})")


def line_rows(path: AnyPath) -> Iterator[tuple[int, Row]]:
    """The line numbers and records of a JSONL file; blank lines are passed over."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, Row(_parse(line, _where(path, number)), _where(path, number))


def image_path(root: AnyPath, name: str, row: Row) -> str:
    """The path of an image that an annotation names relative to the image root.

    Only the name is checked: a million images cost no access to the disk, and links inside the root are the user's own.
    Records that come from anywhere are held to `formats.media.MediaRoot`, which follows links.

    Raises:
        ValueError: The name is empty, absolute, an address, or climbs out with `..`; `//` within counts as absolute or
            an address, since names are often appended to a folder.
    """
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(name).drive) or "\\" in name
    if outside or "//" in name or "\0" in name or not path.parts:
        raise row.error(f"the image {name!r:.200} is not a file under the image root: only paths relative to it are")
    return str(Path(root) / path)


def _where(path: AnyPath, number: int) -> str:
    return f"{path}, record {number}"


def _parse(contents: bytes, where: str) -> Any:
    try:
        return parse_json(contents.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 at byte {error.start}: {error.reason}") from error
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from error
