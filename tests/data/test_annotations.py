"""What is wrong in an annotation file is named, with its file and record; no path leaves the image root."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.annotations import Row, image_path, keyed_rows, line_rows, rows


def row(**values: Any) -> Row:
    return Row(values, "train.json, record 7")


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "a/../../b.jpg",
        "/etc/passwd",
        "C:/a.jpg",
        "..\\a.jpg",
        "http://host/a.jpg",
        "train2017//etc/passwd",
        "a\0.jpg",
        "",
        ".",
    ],
)
def test_an_image_outside_the_root_is_refused_with_the_record(name: str) -> None:
    with pytest.raises(ValueError, match=r"train\.json, record 7: the image .* is not a file under the image root"):
        image_path("images", name, row())


def test_an_image_under_the_root_is_joined_to_it(tmp_path: Path) -> None:
    assert image_path(tmp_path, "train2014/a b..jpg", row()) == str(tmp_path / "train2014" / "a b..jpg")


@pytest.mark.parametrize(
    ("values", "read", "problem"),
    [
        ({}, lambda row: row.text("question"), "has no 'question'"),
        ({"question": 3}, lambda row: row.text("question"), "'question' is 3, not a string"),
        ({"question": " \n"}, lambda row: row.text("question"), "'question' is empty"),
        ({"question": "\ud83d"}, lambda row: row.text("question"), "'question' is not valid Unicode"),
        ({"id": True}, lambda row: row.integer("id"), "'id' is True, not an integer"),
        ({"id": "3"}, lambda row: row.integer("id"), "'id' is '3', not an integer"),
        ({"x": float("nan")}, lambda row: row.number("x"), "'x' is nan, not a number below"),
        ({"x": 10**400}, lambda row: row.number("x"), "'x' is 1000"),
        ({"width": 0}, lambda row: row.positive("width"), "'width' is 0, not above 0"),
        ({"bbox": [1, 2, 3]}, lambda row: row.numbers("bbox", 4), "not 4 numbers"),
        ({"bbox": [1, 2, 3, None]}, lambda row: row.numbers("bbox", 4), r"'bbox\[3\]' is None, not a number"),
        ({"choices": ["a", ""]}, lambda row: row.texts("choices"), r"choices\[1\] is '', not a text"),
        ({"answers": ["a"]}, lambda row: row.rows("answers"), r"answers\[0\]: expected a JSON object, found 'a'"),
    ],
)
def test_a_broken_field_is_an_error_with_file_record_and_value(
    values: dict[str, Any], read: Callable[[Row], Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=rf"train\.json, record 7[,:].*{problem}"):
        read(row(**values))


def test_records_are_counted_from_1(write: Callable[[str, Any], Path]) -> None:
    with pytest.raises(ValueError, match=r"list\.json, record 2: expected a JSON object, found 5"):
        list(rows(write("list.json", [{}, 5])))
    with pytest.raises(ValueError, match=r"in\.json, record 1: expected a JSON object, found None"):
        list(rows(write("in.json", {"data": [None]}), "data"))
    with pytest.raises(ValueError, match=r"keyed\.json, record 2 \('b'\): expected a JSON object"):
        list(keyed_rows(write("keyed.json", {"a": {}, "b": []})))


def test_lines_keep_their_numbers_where_some_are_blank(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n{"a": \n')
    found = line_rows(path)
    assert [next(found)[0], next(found)[0]] == [1, 3]
    with pytest.raises(ValueError, match=r"some\.jsonl, record 4: not valid JSON"):
        next(found)


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b"[1,", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
        (b'{"a": 1}', "expected a JSON list"),
    ],
)
def test_a_file_that_is_no_json_list_is_named(tmp_path: Path, contents: bytes, problem: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"broken\.json.*{problem}"):
        list(rows(path))
