"""The files of Q-Bench: LLVisionQA as JSON or as the hub's parquet (A1), opinion scores of databases (A3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl2.data.annotations import Row, image_path, numbered, rows

from .common import identifier, verbatim
from .multiple_choice import lettered

DATABASES = ("koniq", "spaq", "flive", "livec", "cgi", "agi", "kadid")

_ABSENT = "N/A"  # an option that a question of the parquet files does not have


@dataclass(frozen=True)
class PerceptionRow:
    """A question of A1.

    Attributes:
        options: Texts by letter.
        answer: A letter; None in the test split.
        type: 0 yes or no, 1 what, 2 how.
        concern: 0 distortion, 1 others, 2 distortion in context, 3 others in context.
        cells: The record of the file, without the image's bytes.
    """

    id: str
    question: str
    options: dict[str, str]
    answer: str | None
    type: int
    concern: int
    image: Path | bytes
    cells: dict[str, Any]


@dataclass(frozen=True)
class QualityRow:
    """An image of A3 with its mean opinion score."""

    name: str
    image: Path
    score: float


def perception_files(root: Path, split: str) -> list[Path]:
    """The JSON file of a split, or the parquet files of the hub where only they exist."""
    path = root / "qbench" / f"llvisionqa_{split}.json"
    parquet = sorted((root / "qbench").rglob(f"{split}-*.parquet"))
    return parquet if parquet and not path.is_file() else [path]


def perception_rows(root: Path, split: str) -> list[PerceptionRow]:
    """The questions of a split.

    Raises:
        ValueError: A broken record, which is named, or types that do not mean what the scores say they do.
    """
    found: list[PerceptionRow] = []
    for path in perception_files(root, split):
        is_parquet = path.suffix == ".parquet"
        for row in _parquet_rows(path) if is_parquet else rows(path):
            found.append(_hub_row(row) if is_parquet else _json_row(root, row, str(len(found))))
            if found[-1].answer is None and split == "dev":
                raise row.error("has no answer, as only the test split may")
    _check_types(found, perception_files(root, split)[0])
    return found


def _json_row(root: Path, row: Row, number: str) -> PerceptionRow:
    row.texts("candidates")
    options = lettered(row.items("candidates"))
    answer = None
    if row.values.get("correct_ans") is not None:
        letters = [letter for letter, text in options.items() if text == row.string("correct_ans")]
        if len(letters) != 1:
            raise row.error(f"'correct_ans' {row.string('correct_ans')!r} is not one of {list(options.values())}")
        answer = letters[0]
    image = Path(image_path(root / "qbench" / "images", row.text("img_path"), row))
    return _row(row, number, options, answer, "type", "concern", image)


def _hub_row(row: Row) -> PerceptionRow:
    texts = [verbatim(row, f"option{number}") for number in range(4)]
    options = lettered(text for text in texts if text != _ABSENT)
    answer = row.values.get("correct_choice")
    if answer in ("", _ABSENT):
        answer = None
    if answer is not None and answer not in options:
        raise row.error(f"'correct_choice' is {answer!r}, not one of {', '.join(options)}")
    contents = Row(row.values.get("image"), f"{row.where}, image").values.get("bytes")
    if not isinstance(contents, bytes):
        raise row.error("'image' holds no bytes")
    return _row(row, identifier(row, "id"), options, answer, "question_type", "question_concern", contents)


def _row(
    row: Row, name: str, options: dict[str, str], answer: str | None, type_: str, concern: str, image: Path | bytes
) -> PerceptionRow:
    if len(options) < 2:
        raise row.error(f"{len(options)} options, expected two or more")
    cells = {key: value for key, value in row.values.items() if not isinstance(value, dict)}
    question, codes = verbatim(row, "question"), (_code(row, type_, 3), _code(row, concern, 4))
    return PerceptionRow(name, question, options, answer, codes[0], codes[1], image, cells)


def _code(row: Row, name: str, count: int) -> int:
    value = row.values.get(name)
    if not str(value).isdecimal() or int(str(value)) >= count:
        raise row.error(f"{name!r} is {value!r:.60}, not a code from 0 to {count - 1}")
    return int(str(value))


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(f"reading {path} needs pyarrow: pip install 'owl2[eval]'") from error
    try:
        yield from numbered(parquet.read_table(path).to_pylist(), path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error


def _check_types(found: Sequence[PerceptionRow], path: Path) -> None:
    """The codes of the types are nowhere written down: most questions that begin with "How" must have that of "how",
    and most that can be answered with yes that of "yes or no" (specification, 8).

    Raises:
        ValueError: They do not.
    """
    how = [row.type for row in found if row.question.strip().lower().startswith("how")]
    yes = [row.type for row in found if any(text.strip(". ").lower() == "yes" for text in row.options.values())]
    for codes, expected, what in ((how, 2, 'begin with "How"'), (yes, 0, "have the option Yes")):
        if codes and codes.count(expected) * 2 < len(codes):
            raise ValueError(
                f"{path}: of {len(codes)} questions that {what} only {codes.count(expected)} are of type {expected}: "
                "the types mean something else in this file"
            )


def quality_file(root: Path, split: str) -> Path:
    """The opinion scores of the database of a split `a3_<database>`."""
    return root / "qbench" / "a3" / f"{split.removeprefix('a3_')}.json"


def quality_rows(root: Path, split: str) -> list[QualityRow]:
    """The images of a database with their scores, which are text in the files."""
    path = quality_file(root, split)
    return [
        QualityRow(name, Path(image_path(path.with_suffix(""), name, row)), _opinion(row))
        for row in rows(path)
        for name in [row.text("img_path")]
    ]


def _opinion(row: Row) -> float:
    value = row.values.get("gt_score")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise row.error(f"'gt_score' is {value!r:.60}, not a number") from error
    return Row({"gt_score": value}, row.where).number("gt_score")
