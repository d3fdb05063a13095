"""Shared by the tests of recipes."""

from pathlib import Path

import pytest
from training.tiny_recipes import write_recipes


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The tiny recipes."""
    write_recipes(tmp_path)
    return tmp_path
