"""A step learns the same however its samples are cut up."""

from pathlib import Path

import pytest
from training.tiny_recipes import assert_same_run, metrics, run_recipe

STEP = ("batch.micro_batch_size=4",)
"""Of the 32 samples of a step: 8 micro-batches on one rank, and 4 on each of two."""


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_micro_batches_do_not_change_loss_and_gradient_norm(
    stage: str, data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    run_recipe(data, stage, tmp_path / "run", *STEP)
    assert_same_run(tmp_path / "run", whole[stage])


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_packing_does_not_change_what_a_step_learns(
    stage: str, data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    length = "data.packing.length=128"
    run_recipe(data, stage, tmp_path / "run", "data.packing.enabled=true", length, "batch.micro_batch_size=2")
    assert_same_run(tmp_path / "run", whole[stage])
    assert metrics(tmp_path / "run")[0]["packing_efficiency"] > metrics(whole[stage])[0]["packing_efficiency"]
