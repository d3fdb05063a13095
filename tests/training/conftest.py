"""Shared by the tests of training."""

from pathlib import Path

import pytest
from training.tiny_recipes import run_recipe, write_training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the tiny recipes, and the recipes."""
    return write_training(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each stage whose steps are one micro-batch each."""
    directory = tmp_path_factory.mktemp("whole")
    for stage in ("pretrain", "instruct"):
        run_recipe(data, stage, directory / stage)
    return {stage: directory / stage for stage in ("pretrain", "instruct")}


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps with the checkpoints of all, at another resolution than its first model's."""
    directory = tmp_path_factory.mktemp("runs")
    run_recipe(data, "pretrain", directory / "first", "schedule.steps=1")
    start = f"model.checkpoint={directory / 'first' / 'checkpoint'}"
    run_recipe(
        data, "pretrain", directory / "run", start, "data.image_size=24", "checkpoint.every=1", "checkpoint.keep=3"
    )
    return directory / "run"
