"""`owl2 train` from the command line."""

import json
from pathlib import Path

import pytest
from training.tiny_recipes import write_training
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner, Result

from owl2.cli.main import app


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_training(tmp_path)
    return tmp_path


def train(*arguments: object) -> Result:
    environment = {"COLUMNS": "200", "MALLOC_TOP_PAD_": "0"}  # else the command starts itself again
    return CliRunner(env=environment).invoke(app, ["train", *map(str, arguments)])


def test_a_dry_run_shows_the_recipe_what_trains_and_the_cost_and_writes_nothing(directory: Path) -> None:
    before = {file.name for file in directory.iterdir()}
    result = train(directory / "pretrain.yaml", f"out={directory / 'run'}", "optimizer.max_grad_norm=0.5", "--dry-run")
    assert result.exit_code == 0, result.output
    for shown in ("max_grad_norm: 0.5", "vision encoder", "frozen", "GFLOP a sample", "GiB of one GPU", "GPU hours"):
        assert shown in result.output, shown
    assert {file.name for file in directory.iterdir()} == before


def test_a_run_prints_what_trains_and_ends_with_the_model(directory: Path) -> None:
    run = directory / "run"
    result = train(directory / "pretrain.yaml", f"out={run}", "schedule.steps=2")
    assert result.exit_code == 0, result.output
    assert "pretrain: 2 steps of 32 samples" in result.output and f"finished: {run / 'checkpoint'}" in result.output
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("num_attention_heads=3", "not a multiple of the number of attention heads (3)"), ("vocab_size=9", "are 259")],
)
def test_sizes_that_a_language_model_cannot_have_are_refused_in_one_line(
    directory: Path, setting: str, message: str
) -> None:
    result = train(
        directory / "pretrain.yaml", f"out={directory / 'run'}", f"model.initialize.language_model.{setting}"
    )
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert "Traceback" not in result.output


def test_tensorboard_gets_the_numbers_of_each_step(directory: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = directory / "run"
    result = train(directory / "pretrain.yaml", f"out={run}", "schedule.steps=2", "logging.tensorboard=true")
    assert result.exit_code == 0, result.output
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)


def test_lora_leaves_an_adapter_folder_that_goes_on_top_of_its_base(directory: Path) -> None:
    pytest.importorskip("peft")
    from owl2.checkpoints.adapters import load_adapter, merge_adapters

    first = train(directory / "pretrain.yaml", f"out={directory / 'first'}", "schedule.steps=1")
    assert first.exit_code == 0, first.output
    base, run = directory / "first" / "checkpoint", directory / "run"
    settings = ["train.parts=[abstractor, decoder_vision]", "train.lora={rank: 2, alpha: 4}", "schedule.steps=2"]
    result = train(directory / "instruct.yaml", f"out={run}", f"model.checkpoint={base}", *settings)
    assert result.exit_code == 0, result.output
    assert "lora" in result.output
    before = AutoModelForImageTextToText.from_pretrained(base)
    after = merge_adapters(load_adapter(AutoModelForImageTextToText.from_pretrained(base), run / "checkpoint"))
    changed = {
        name
        for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True)
        if not one.equal(other)
    }
    assert any("abstractor" in name for name in changed) and any(".vision_" in name for name in changed)
    assert any(name.endswith("q_proj.weight") and "language_model" in name for name in changed)
    assert not any("vision_tower" in name or "embed_tokens" in name for name in changed)


def test_a_run_whose_loss_explodes_ends_in_one_line_with_advice(directory: Path) -> None:
    settings = ["optimizer.learning_rate=1e30", "optimizer.max_grad_norm=1e30", "limits.skipped_in_a_row=0"]
    result = train(directory / "pretrain.yaml", f"out={directory / 'run'}", *settings)
    assert result.exit_code == 2 and "Lower optimizer.learning_rate" in result.stderr
    assert "Traceback" not in result.output
    last = json.loads((directory / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["optimizer.max_gard_norm=1"],
            "there is no key optimizer.max_gard_norm; did you mean optimizer.max_grad_norm?",
        ),
        (["max_grad_norm"], "'max_grad_norm' is not an override"),
        (["data.sources.pairs.path=absent.jsonl"], "absent.jsonl"),
        (["model.checkpoint=absent"], "there is no absent; point it to yours with model.checkpoint=DIR"),
        (["out=null"], "no run directory: give out=DIR"),
        (["data.max_length=4"], "leaves no room for text"),
        (["data.max_length=1025"], "data.max_length 1025 is above the context of the model, 1024 tokens"),
        (["batch.global_batch_size=0"], "batch.global_batch_size"),
        (["parallel.data_shards=3"], "1 ranks are not"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line(directory: Path, arguments: list[str], message: str) -> None:
    result = train(directory / "pretrain.yaml", f"out={directory / 'run'}", *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert "Traceback" not in result.output and len(result.stderr.strip().splitlines()) == 1
