"""Shared by the tests of training."""

from pathlib import Path

import pytest
from training.tiny_recipes import write_training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the tiny recipes, and the recipes."""
    return write_training(tmp_path_factory.mktemp("data"))
