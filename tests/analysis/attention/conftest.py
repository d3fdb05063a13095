"""A tiny model in a directory, with its processor."""

from pathlib import Path

import pytest
from PIL import Image
from training.tiny_recipes import run_recipe, write_training


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a tiny run of stage 1 leaves."""
    directory = tmp_path_factory.mktemp("model")
    write_training(directory)
    run_recipe(directory, "pretrain", directory / "run", "schedule.steps=2", "schedule.warmup_steps=1")
    return directory / "run" / "checkpoint"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.new("RGB", (32, 24), "white")
    image.paste("red", (4, 4, 20, 16))
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"
