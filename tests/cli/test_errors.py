"""Errors that a user can put right: one line that says how."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from owl2.cli.errors import show_error


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("scipy.stats", "scipy is not installed: pip install 'owl2[eval]'"),
        ("lm_eval", "lm_eval is not installed: pip install 'owl2[lm-eval]'"),
        ("unheard_of", "No module named 'unheard_of'"),
    ],
)
def test_a_missing_module_names_the_extra_that_brings_it(
    module: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_error(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert capsys.readouterr().err == f"owl2: error: {line}\n"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--verbos", r"no such option: --verbos; did you mean --verbose.*\? See .* --help"),
        ("evalute", "there is no command 'evalute': did you mean evaluate"),
        ("xyz", "there is no command 'xyz': `owl2 --help` lists them"),
        ("cost pretrain --gpsu 8", r"no such option: --gpsu; did you mean .*--gpus\? See .* cost --help"),
        ("cost pretrain --gpus many", "invalid value for '--gpus': .*; see .* cost --help"),
        ("cost", "missing argument 'RECIPE'; see .* cost --help"),
        ("doctor twice", "got unexpected extra argument.*twice.*; see .* doctor --help"),
        ("data chek my.jsonl", "no such command 'chek'. Did you mean 'check'.? See .* data --help"),
        ("data show my.jsonl --indx 7", r"no such option: --indx; did you mean --index\? See .* data show --help"),
    ],
)
def test_a_mistyped_command_line_gives_one_line_that_names_the_help(
    typed: str, line: str, refused: Callable[..., str]
) -> None:
    assert re.match(f"owl2: error: {line}", refused(*typed.split()))


@pytest.mark.parametrize("typed", ["", "data"])
def test_a_command_of_commands_alone_shows_its_help(typed: str, owl2: Callable[..., Result]) -> None:
    result = owl2(*typed.split())
    assert "Commands" in result.output and "owl2: error" not in result.output


def test_an_error_of_the_system_is_told_without_its_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        (tmp_path / "file").mkdir()
    show_error(caught.value)
    assert capsys.readouterr().err == f"owl2: error: {tmp_path / 'file'}: file exists\n"
