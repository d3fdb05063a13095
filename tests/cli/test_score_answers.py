"""`owl2 score --answers`: what another program generated is scored by the same rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pope_data import SUBSETS, question, write_pope
from typer.testing import Result


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """POPE with two questions a subset: the answer to the first is yes, to the second no."""
    return write_pope(tmp_path / "data", map(question, (0, 1)))


def answers(path: Path) -> list[dict[str, Any]]:
    """Right but for the second question of the last subset."""
    rows = [
        {"question_id": f"{each}-{number}", "text": ("Yes.", "no")[number]} for each in SUBSETS for number in (0, 1)
    ]
    rows[-1]["text"] = "Yes, there is."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_they_are_scored_and_can_be_scored_again(owl2: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    rows = answers(tmp_path / "a.jsonl")
    arguments = ("score", "--answers", tmp_path / "a.jsonl", "--task", "pope", "--data", data)
    result = owl2(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "pope" / "scores.json").read_text())
    summary = scores["protocols"]["pope_official"]["summary"]
    assert summary["accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert summary["adversarial"]["accuracy"] == 0.5 and scores["model"]["name"] == "a.jsonl"
    assert owl2("score", tmp_path / "out").stdout == result.stdout

    (tmp_path / "b.json").write_text(
        json.dumps([{"id": row["question_id"], "prediction": row["text"]} for row in rows])
    )
    again = owl2("score", "--answers", tmp_path / "b.json", *arguments[3:], "--out", tmp_path / "other")
    assert again.stdout == result.stdout
    assert "exists already" in owl2(*arguments, "--out", tmp_path / "out").stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:], "1 of 6 samples of POPE have no answer, first 'random-0'"),
        (lambda rows: [*rows, {"question_id": 9, "text": "x"}], "1 of 7 answers are of no sample, first '9'"),
        (lambda rows: [*rows, rows[0]], "record 7: the question_id 'random-0' comes a second time"),
        (lambda rows: [{**rows[0], "text": None}, *rows[1:]], "record 1: has none of the fields text, answer"),
    ],
)
def test_each_sample_needs_exactly_one_answer(
    change: Callable[..., Any], words: str, owl2: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    rows = change(answers(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = owl2("score", "--answers", tmp_path / "a.jsonl", "--task", "pope", "--data", data, "--out", tmp_path / "o")
    assert result.exit_code == 2 and words in " ".join(result.stderr.split())
    assert not (tmp_path / "o" / "pope" / "predictions.jsonl").exists()


def test_a_run_and_answers_are_not_scored_at_once(owl2: Callable[..., Result], tmp_path: Path) -> None:
    for arguments in ((), (tmp_path, "--answers", "a"), ("--answers", "a")):
        assert "give the directory of a run, or --answers FILE and --task NAME" in owl2("score", *arguments).stderr
