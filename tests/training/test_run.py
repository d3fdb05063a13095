"""A recipe from end to end: the same training however it is cut up, stopped, or spread over ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training.ranks import run_ranks
from training.tiny_recipes import curve, metrics, recipe_of, run_recipe, run_recipes
from transformers import AutoModelForImageTextToText, AutoProcessor

from owl2.training.checkpoint.manager import Checkpoints

STEP = ("batch.micro_batch_size=4",)
"""Of the 32 samples of a step: 8 micro-batches on one rank, and 4 on each of two."""


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each stage whose steps are one micro-batch each."""
    directory = tmp_path_factory.mktemp("whole")
    for stage in ("pretrain", "instruct"):
        run_recipe(data, stage, directory / stage)
    return {stage: directory / stage for stage in ("pretrain", "instruct")}


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


def stop_after(data: Path, out: Path, step: int, *overrides: str) -> None:
    """Runs stage 2 until a signal asks it to stop after a step."""

    def terminate(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    finished, printed = run_recipe(data, "instruct", out, *overrides, on_step=terminate)
    assert not finished and f"stopped after step {step}" in printed


def assert_same(found: Path, wanted: Path, tolerance: float = 1e-5) -> None:
    expected = curve(wanted)
    assert len(expected) == 3 and expected[0] != expected[2]
    torch.testing.assert_close(torch.tensor(curve(found)), torch.tensor(expected), rtol=tolerance, atol=tolerance)
    for name in ("samples", "tokens", "supervised_tokens", "images", "learning_rate"):
        assert [line[name] for line in metrics(found)] == [line[name] for line in metrics(wanted)], name


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_micro_batches_do_not_change_loss_and_gradient_norm(
    stage: str, data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    run_recipe(data, stage, tmp_path / "run", *STEP)
    assert_same(tmp_path / "run", whole[stage])


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_two_ranks_do_not_change_loss_and_gradient_norm(
    stage: str, on_two_ranks: dict[str, Path], whole: dict[str, Path]
) -> None:
    assert_same(on_two_ranks[stage], whole[stage])


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_packing_does_not_change_what_a_step_learns(
    stage: str, data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    length = "data.packing.length=128"
    run_recipe(data, stage, tmp_path / "run", "data.packing.enabled=true", length, "batch.micro_batch_size=2")
    assert_same(tmp_path / "run", whole[stage])
    assert metrics(tmp_path / "run")[0]["packing_efficiency"] > metrics(whole[stage])[0]["packing_efficiency"]


def test_packing_on_two_ranks_with_unequal_numbers_of_rows_does_not_either(
    on_two_ranks: dict[str, Path], whole: dict[str, Path]
) -> None:
    assert_same(on_two_ranks["packed"], whole["instruct"])


def test_bfloat16_learns_nearly_the_same_and_leaves_bfloat16_weights(
    data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    run_recipe(data, "instruct", tmp_path / "run", "precision=bf16")
    torch.testing.assert_close(
        torch.tensor(curve(tmp_path / "run")), torch.tensor(curve(whole["instruct"])), rtol=0.03, atol=0
    )
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "checkpoint", dtype="auto")
    assert model.dtype == torch.bfloat16


def test_the_seconds_that_training_stands_still_for_a_checkpoint_are_told_with_the_step_after_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, pause = Checkpoints.save, 0.25

    def slow(*arguments: Any) -> None:
        time.sleep(pause)
        save(*arguments)

    monkeypatch.setattr(Checkpoints, "save", slow)
    small = ("schedule.steps=5", "checkpoint.every=2", "logging.every=5", "batch.global_batch_size=4")
    run_recipe(data, "instruct", tmp_path / "run", *small)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 5]  # a line of its own, though only each fifth step has one
    assert all(line["checkpoint_seconds"] >= pause for line in lines)


def test_workers_do_not_change_anything(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    run_recipe(data, "pretrain", tmp_path / "run", "data.workers=2")
    assert curve(tmp_path / "run") == curve(whole["pretrain"])


def test_a_stopped_run_goes_on_bit_for_bit(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    stop_after(data, tmp_path / "run", 1)
    stop_after(data, tmp_path / "run", 2)
    finished, printed = run_recipe(data, "instruct", tmp_path / "run")
    assert finished and "resumes after step 2 of 3" in printed
    assert curve(tmp_path / "run") == curve(whole["instruct"])
    one, other = (
        AutoModelForImageTextToText.from_pretrained(run / "checkpoint") for run in (tmp_path / "run", whole["instruct"])
    )
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_with_muon_resumes_bit_for_bit(precision: str, data: Path, tmp_path: Path) -> None:
    muon = ("optimizer.vision_optimizer=muon", f"precision={precision}")
    run_recipe(data, "instruct", tmp_path / "whole", *muon)
    stop_after(data, tmp_path / "run", 2, *muon)
    run_recipe(data, "instruct", tmp_path / "run", *muon)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_after_sigkill_and_exits_0_after_sigterm(data: Path, tmp_path: Path) -> None:
    overrides = ["schedule.steps=8", "checkpoint.every=2", "checkpoint.asynchronous=true", "data.workers=1"]
    run_recipe(data, "instruct", tmp_path / "whole", *overrides)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "owl2", "train", str(data / "instruct.yaml"), f"out={out}", *overrides]
    for lines, number, code in ((3, signal.SIGKILL, -signal.SIGKILL), (6, signal.SIGTERM, 0)):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
        while process.poll() is None and (not (out / "metrics.jsonl").exists() or len(curve(out)) < lines):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(120) == code
        assert len(curve(out)) < 8
    run_recipe(data, "instruct", out, *overrides)
    assert curve(out) == curve(tmp_path / "whole")


def test_a_stopped_run_goes_on_on_two_ranks(on_two_ranks: dict[str, Path], whole: dict[str, Path]) -> None:
    assert_same(on_two_ranks["resumed"], whole["instruct"], 1e-6)


def test_lines_written_after_the_last_checkpoint_are_not_there_twice(data: Path, tmp_path: Path) -> None:
    stop_after(data, tmp_path / "run", 2)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 9.0}\n')  # as if the run had been killed in step 4
    run_recipe(data, "instruct", tmp_path / "run")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]


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


@pytest.mark.parametrize("name", ["checkpoint", "checkpoints"])
def test_a_directory_in_which_no_run_began_is_no_finished_run(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()  # as the quickstart leaves it, or after the recipe was lost
    with pytest.raises(ValueError, match=rf"holds {name}, but no run began there \(recipe.yaml is missing\)"):
        run_recipe(data, "pretrain", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_that_began_under_former_names_of_keys_resumes(
    data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    stop_after(data, tmp_path / "run", 2)
    recipe = tmp_path / "run" / "recipe.yaml"
    written = recipe.read_text()
    for former, present in (
        ("clip", "max_grad_norm"),
        ("minimum_rate", "min_learning_rate"),
        ("language_rate", "language_lr_scale"),
        ("global_size", "global_batch_size"),
        ("micro_size", "micro_batch_size"),
        ("vision_half", "decoder_vision"),
        ("text_half", "decoder_text"),
        ("shared", "decoder_shared"),
    ):
        assert present in written
        written = written.replace(present, former)
    recipe.write_text(written)
    finished, _ = run_recipe(data, "instruct", tmp_path / "run")
    assert finished and curve(tmp_path / "run") == curve(whole["instruct"])


def test_a_damaged_recipe_of_a_run_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: [")
    with pytest.raises(ValueError, match="recipe.yaml is not YAML"):
        run_recipe(data, "pretrain", tmp_path)


def test_another_recipe_in_the_same_directory_is_refused_with_the_keys_that_differ(
    data: Path, whole: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=r"another recipe.*optimizer.max_grad_norm: 1.0, 2.0; seed: 0, 1"):
        run_recipe(data, "pretrain", whole["pretrain"], "optimizer.max_grad_norm=2", "seed=1")
    finished, _ = run_recipe(data, "pretrain", whole["pretrain"], "batch.micro_batch_size=8", "logging.every=5")
    assert finished  # these do not decide what is learnt


def test_held_out_loss_is_the_loss_of_the_samples_alone(data: Path, tmp_path: Path) -> None:
    sources = f"{{held: {{format: records, path: {data / 'records.jsonl'}}}}}"
    overrides = ("evaluate.every=2", f"evaluate.sources={sources}", "evaluate.samples=12", "schedule.steps=2")
    run_recipe(data, "instruct", tmp_path / "run", *overrides, "data.packing.enabled=true")
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert (line["step"], line["samples"]) == (2, 12)
    assert line["loss"] == pytest.approx(loss_of_twelve(data, tmp_path / "run"), rel=1e-5)


def loss_of_twelve(data: Path, out: Path) -> float:
    """Mean loss over the tokens of the held-out samples, one by one, with the model that the run left."""
    from owl2.training.data.stage_data import open_stage_data

    recipe = recipe_of(data, "instruct", out)
    samples = open_stage_data(recipe, {"held": next(iter(recipe.data.sources.values()))}, out)
    model = AutoModelForImageTextToText.from_pretrained(out / "checkpoint")
    processor = AutoProcessor.from_pretrained(out / "checkpoint")
    total, count = 0.0, 0
    for draw in samples.take(12):
        records, number = samples.records.find(draw)
        conversation = records[number]
        encoded = processor.encode_conversation(conversation.messages, images=list(conversation.images) or None)
        labels = torch.tensor(encoded["labels"])
        batch = {name: torch.tensor([encoded[name]]) for name in ("input_ids", "mm_token_type_ids")}
        logits = model(**batch, pixel_values=encoded.get("pixel_values")).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits.float(), labels[1:], reduction="none")
        total, count = total + losses.sum().item(), count + int((labels[1:] != -100).sum())
    return total / count
