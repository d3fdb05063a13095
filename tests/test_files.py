"""Files are read with a plain message about what is wrong, and written whole or not at all."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl2.files import cut_after_last_line, read_json_object, write_whole


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json", "settings") == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"{", "a.json is not valid JSON"),
        (b"\xff", "a.json is not valid JSON"),
        (b"[" * 100_000, "a.json is not valid JSON"),
        (b"[1]", "a.json holds a list, not settings"),
        (b'{"a": [{"b": 1, "c": 2, "b": 1}]}', "a.json is not valid JSON: an object has the key 'b' more than once"),
    ],
)
def test_what_holds_no_object_is_an_error_that_names_the_file(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_json_object(tmp_path / "a.json", "settings")


@pytest.mark.parametrize("contents", [b"ab\xff", "aé", ["a", "é"]])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, contents: bytes | str | list[str]) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    write_whole(file, contents)
    assert file.read_bytes() == (contents if isinstance(contents, bytes) else "".join(contents).encode())
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_stays_as_it_was_if_its_contents_cannot_be_made(tmp_path: Path) -> None:
    def pieces() -> Iterator[str]:
        yield "new"
        raise RuntimeError("in the middle")

    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(RuntimeError):
        write_whole(file, pieces())
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_threads_that_write_one_file_leave_the_contents_of_one_of_them(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    writers = [threading.Thread(target=write_whole, args=(file, [str(number)] * 1000)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert file.read_text() in {str(number) * 1000 for number in range(8)} and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("contents", "left"),
    [
        (b"", b""),
        (b"a\nb\n", b"a\nb\n"),
        (b"a\nb", b"a\n"),
        (b"a", b""),
        (b"a\n" + b"b" * 200_000, b"a\n"),
        (b"b" * 200_000, b""),
    ],
    ids=["nothing", "whole lines", "a line cut off", "one line cut off", "a long one", "a long one alone"],
)
def test_a_line_that_was_cut_off_is_removed_however_long_it_is(tmp_path: Path, contents: bytes, left: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(contents)
    cut_after_last_line(file)
    assert file.read_bytes() == left
