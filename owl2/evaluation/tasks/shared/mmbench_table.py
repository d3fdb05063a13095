"""MMBench's TSV files, which hold the images, and the table that its server takes (specification, 6.1 and 6.5)."""

import base64
import binascii
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from PIL import Image

from owl2.data.annotations import Row
from owl2.evaluation.metrics.mmbench import ROTATION
from owl2.evaluation.task import Prediction

_LONGEST_REFERENCE = 64  # characters of an `image` that names another row instead of holding a picture


@dataclass(frozen=True)
class BenchRow:
    """A row: a question with its options in one of their rotations.

    Attributes:
        index: Index of the row: that of the question plus `ROTATION` for each step of the rotation.
        line: Number of the row in the file, from 1.
        group: Index of the question's first row.
        options: Texts of the question's options by letter.
        answer: A letter; None in the test splits.
        split: The split that the file names, if any.
    """

    index: int
    line: int
    group: int
    question: str
    hint: str
    options: dict[str, str]
    answer: str | None
    category: str | None
    l2_category: str | None
    split: str | None
    image: bytes


def read_table(path: Path) -> list[BenchRow]:
    """The rows of a file, in their order.

    Raises:
        ValueError: A column is missing, a row is broken, lacks its first rotation or its picture; the row is named.
    """
    table = _read(path)
    pictures = _Pictures(path, table)
    rows = [_row(line, row, pictures) for line, row in enumerate(table.values(), start=1)]
    for row, cells in zip(rows, table.values(), strict=True):
        if row.group not in table:
            raise cells.error(f"the question's first row, index {row.group}, is not in the file")
    return rows


def _read(path: Path) -> dict[int, Row]:
    """The cells of the rows by index: strings, as they stand, so that an option "None" remains a text."""
    table: dict[int, Row] = {}
    for number, cells in enumerate(_cells(path), start=1):
        row = Row(cells, f"{path}, record {number}")
        index = row.integer_in_text("index")
        if index in table:
            raise row.error(f"the index {index} occurs a second time")
        table[index] = row
    return table


def _cells(path: Path) -> Iterator[dict[str, str]]:
    """Cells by column of each row."""
    limit = csv.field_size_limit(sys.maxsize)  # of all readers; pictures are longer than its default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            columns = next(reader, [])
            lacking = [name for name in ("index", "question", "image", "A", "B") if name not in columns]
            if lacking:
                raise ValueError(f"{path} has no column {lacking[0]!r}; its columns are {columns!r:.200}")
            for number, cells in enumerate(reader, start=1):
                if len(cells) != len(columns):
                    raise ValueError(f"{path}, record {number}: {len(cells)} cells for {len(columns)} columns")
                yield dict(zip(columns, cells, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table in UTF-8 with tabs between its cells: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _row(line: int, row: Row, pictures: "_Pictures") -> BenchRow:
    cells: Mapping[str, str] = row.values
    index = row.integer_in_text("index")
    options = {letter: cells[letter] for letter in ascii_uppercase if cells.get(letter)}
    answer = cells.get("answer") or None
    if len(options) < 2 or (answer is not None and answer not in options):
        raise row.error(f"the answer {answer!r} with the options {''.join(options)}: expected one of two or more")
    row.text("question")
    return BenchRow(
        index=index,
        line=line,
        group=row.integer_in_text("g_index") if cells.get("g_index") else index % ROTATION,
        question=row.string("question"),
        hint=cells.get("hint", ""),
        options=options,
        answer=answer,
        category=cells.get("category") or None,
        l2_category=cells.get("l2-category") or None,
        split=cells.get("split") or None,
        image=pictures.of(index),
    )


class _Pictures:
    """The pictures of a table, each decoded once: rows repeat them, or name the row that holds them."""

    def __init__(self, path: Path, table: Mapping[int, Row]) -> None:
        self._path, self._table = path, table
        self._decoded: dict[str, bytes] = {}

    def of(self, index: int) -> bytes:
        """The picture of a row.

        Raises:
            ValueError: It is missing or not an image.
        """
        row = self._table[index]
        cell = row.values["image"]
        if 0 < len(cell) <= _LONGEST_REFERENCE:
            named = self._table.get(int(cell)) if cell.isdecimal() else None
            if named is None or len(named.values["image"]) <= _LONGEST_REFERENCE:
                raise row.error(f"'image' names the row {cell!r}, which holds no picture")
            cell = named.values["image"]
        if cell not in self._decoded:
            self._decoded[cell] = _decode(cell, row)
        return self._decoded[cell]


def _decode(cell: str, row: Row) -> bytes:
    try:
        contents = base64.b64decode(cell, validate=True)
        with Image.open(BytesIO(contents)):  # reads the header
            return contents
    except (binascii.Error, OSError, ValueError) as error:
        raise row.error(f"'image' is not a picture in base64: {cell[:40]!r} ({error})") from error


def write_submission(records: Sequence[Prediction], out: Path) -> Path:
    """The table that MMBench's server takes: one row for each of the file, with the answer as it was generated."""
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    except ImportError as error:
        raise ImportError("writing MMBench's xlsx needs openpyxl: pip install 'owl2[eval]'") from error
    book = Workbook(write_only=True)
    sheet = book.create_sheet()

    def cell(text: str | None) -> Any:
        """A cell of text, even if it is "=1+1"; characters that xlsx does not allow are left out."""
        made = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", text or ""))
        made.data_type = "s"
        return made

    letters = sorted({letter for record in records for letter in record.details["options"]} | set("ABCD"))
    sheet.append(["index", "question", "prediction", *letters])
    for record in sorted(records, key=lambda record: record.details["line"]):
        options = record.details["options"]
        texts = [record.details["question"], record.answer, *(options.get(letter) for letter in letters)]
        sheet.append([int(record.id), *(cell(text) for text in texts)])
    path = out / "mmbench.xlsx"
    book.save(path)
    return path
