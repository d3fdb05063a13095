"""Shared by the tests of training."""

from pathlib import Path

import pytest
from training.tiny_recipes import write_data, write_recipes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the tiny recipes, and the recipes."""
    directory = tmp_path_factory.mktemp("data")
    write_data(directory)
    write_recipes(directory)
    return directory
