"""A recipe from end to end: the same training however it is spread over ranks and workers, and what it leaves."""

import json
from pathlib import Path

import pytest
import torch
from training.ranks import run_ranks
from training.tiny_recipes import assert_same_run, curve, run_recipe, run_recipes, stop_after
from transformers import AutoModelForImageTextToText, AutoProcessor

STEP = ("batch.micro_batch_size=4",)
"""Of the 32 samples of a step: 8 micro-batches on one rank, and 4 on each of two."""


@pytest.fixture(scope="module")
def on_two_ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("two")
    runs = [
        ("pretrain", directory / "pretrain", STEP),
        ("instruct", directory / "instruct", STEP),
        ("instruct", directory / "packed", ("batch.micro_batch_size=1", "data.packing.enabled=true")),
        ("instruct", directory / "resumed", ("schedule.steps=3",)),
    ]
    stop_after(data, directory / "resumed", 2)
    run_ranks(2, run_recipes, data, runs)
    return {out.name: out for _, out, _ in runs}


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_two_ranks_do_not_change_loss_and_gradient_norm(
    stage: str, on_two_ranks: dict[str, Path], whole: dict[str, Path]
) -> None:
    assert_same_run(on_two_ranks[stage], whole[stage])


def test_packing_on_two_ranks_with_unequal_numbers_of_rows_does_not_either(
    on_two_ranks: dict[str, Path], whole: dict[str, Path]
) -> None:
    assert_same_run(on_two_ranks["packed"], whole["instruct"])


def test_bfloat16_learns_nearly_the_same_and_leaves_bfloat16_weights(
    data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    run_recipe(data, "instruct", tmp_path / "run", "precision=bf16")
    torch.testing.assert_close(
        torch.tensor(curve(tmp_path / "run")), torch.tensor(curve(whole["instruct"])), rtol=0.03, atol=0
    )
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "checkpoint", dtype="auto")
    assert model.dtype == torch.bfloat16


def test_workers_do_not_change_anything(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    run_recipe(data, "pretrain", tmp_path / "run", "data.workers=2")
    assert curve(tmp_path / "run") == curve(whole["pretrain"])


def test_a_stopped_run_goes_on_on_two_ranks(on_two_ranks: dict[str, Path], whole: dict[str, Path]) -> None:
    assert_same_run(on_two_ranks["resumed"], whole["instruct"], 1e-6)


def test_a_finished_run_says_so_and_leaves_a_model_that_loads_with_one_line(whole: dict[str, Path], data: Path) -> None:
    out = whole["pretrain"]
    before = (out / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    finished, printed = run_recipe(data, "pretrain", out)
    assert finished and "holds the finished run" in printed
    assert (out / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    model, processor = (
        auto.from_pretrained(out / "checkpoint") for auto in (AutoModelForImageTextToText, AutoProcessor)
    )
    assert type(model).__name__ == "Owl2ForConditionalGeneration"
    assert processor.num_image_tokens == model.config.tokens_per_image == 4
    assert {"recipe.yaml", "versions.json", "trainable.json", "metrics.jsonl"} <= {file.name for file in out.iterdir()}


def test_frozen_parts_stay_as_they_were_and_the_table_says_what_trains(whole: dict[str, Path]) -> None:
    out = whole["pretrain"]
    before, after = (
        AutoModelForImageTextToText.from_pretrained(out / name).state_dict() for name in ("initial", "checkpoint")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "language_model" not in name and "lm_head" not in name} | {
        name for name in before if ".vision_" in name and "language_model" in name
    }
    rows = {row["part"]: row for row in json.loads((out / "trainable.json").read_text())}
    assert (
        rows["decoder_shared"]["trained"]
        == 0
        < rows["decoder_vision"]["trained"]
        == rows["decoder_vision"]["parameters"]
    )
    assert sum(row["trained"] for row in rows.values()) == sum(before[name].numel() for name in changed)
    assert rows["vision_encoder"]["lowest_rate"] == pytest.approx(1e-2 * 0.9**2)


def test_stage_two_goes_on_from_the_model_of_stage_one(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    start = f"model.checkpoint={whole['pretrain'] / 'checkpoint'}"
    finished, _ = run_recipe(data, "instruct", tmp_path / "run", start, "data.image_size=32", "schedule.steps=1")
    assert finished and not (tmp_path / "run" / "initial").exists()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "checkpoint")
    assert model.config.vision_config.image_size == 32
