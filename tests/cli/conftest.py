"""Shared by the tests of the command line: a tiny model in both layouts, an image, and a way to run commands."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import write_official
from PIL import Image
from typer.testing import CliRunner, Result

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.cli.main import app


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as the official code writes it, with its tokenizer."""
    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def ours(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as `save_pretrained` writes it."""
    directory = tmp_path_factory.mktemp("ours")
    Owl2ForConditionalGeneration.from_pretrained(official).save_pretrained(directory)
    Owl2Processor.from_pretrained(official).save_pretrained(directory)
    return directory


@pytest.fixture
def editable(ours: Path, tmp_path: Path) -> Path:
    """A copy of `ours` to be damaged."""
    return Path(shutil.copytree(ours, tmp_path / "model"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "gradient.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture
def owl2() -> Callable[..., Result]:
    """Runs a command line in this process."""

    def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def refused(owl2: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command line that must end with exit code 2 and one line on stderr, which it returns."""

    def run(*arguments: object, stdin: str | bytes | None = None) -> str:
        result = owl2(*arguments, stdin=stdin)
        assert result.exit_code == 2, result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("owl2: error: "), result.stderr
        return lines[0]

    return run
