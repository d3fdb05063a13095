"""Paths as they are typed in a chat."""

from pathlib import Path

import pytest

from owl2.cli.chat import _path_as_typed


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("a.png", "a.png"),
        ("a b.png", "a b.png"),
        ('"a b.png"', "a b.png"),
        ("'a b.png'", "a b.png"),
        ("a\\ b.png", "a b.png"),
        ("~/x.png", "HOME/x.png"),
        ('"~/x y.png"', "HOME/x y.png"),
        ("it's.png", "it's.png"),
        ("file:///a/b.png", "file:///a/b.png"),
    ],
)
def test_they_mean_what_they_mean_in_a_shell(typed: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "HOME")
    assert _path_as_typed(typed) == path


def test_a_file_whose_name_has_quotation_marks_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('"a".png').touch()
    assert _path_as_typed('"a".png') == '"a".png'
