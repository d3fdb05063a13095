"""MMHal-Bench from its files to ratings, hallucination rate and types."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from PIL import Image

from owl2.evaluation.judge.judge import JudgeCacheMiss
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import JudgeSettings, score_directory, write_submission
from owl2.evaluation.task import Decoding
from owl2.evaluation.tasks import mmhal

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")


@pytest.fixture
def template(tmp_path: Path) -> list[dict[str, Any]]:
    """Ten records in the official form, the last two of the first two types again."""
    images = tmp_path / "data" / "mmhal" / "images"
    images.mkdir(parents=True)
    records = []
    for number in range(10):
        Image.new("RGB", (16, 12 + number), (20 * number, 200, 90)).save(images / f"{number}_o.jpg")
        record = {
            "question_type": TYPES[number % 8],
            "question_topic": "food",
            "image_id": f"{number:016x}",
            "image_src": f"https://images.example/2023/{number}_o.jpg",
            "image_content": ["Table", f"Cup {number}"],
            "question": f"What is on table {number}?",
            "gt_answer": "A cup.",
            "model_answer": "",
        }
        records.append(record)
    (images.parent / "response_template.json").write_text(json.dumps(records))
    return records


@pytest.fixture
def data(template: list[dict[str, Any]], tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def answered(data, predicted, monkeypatch) -> Path:
    """Predictions of a tiny model, whose answers are kept short: a random model never ends one."""
    monkeypatch.setattr(mmhal, "TASK", replace(mmhal.TASK, decoding={"": Decoding(max_new_tokens=6)}))
    return predicted("mmhal", data)


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeSettings:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    return JudgeSettings(tmp_path / "cache", base_url=server.url)


def rated(server: JudgeServer, *ratings: str) -> None:
    """Lets the judge end its reply to each question with a rating."""

    def answer(number: int, body: dict[str, Any]) -> bytes:
        text = body["messages"][0]["content"]
        (own,) = (index for index in range(len(ratings)) if f"\nQuestion: What is on table {index}?\n" in text)
        return completion(f"I explain.\n{ratings[own]}")

    server.answer = answer


def test_files_give_the_ratings_worked_out_by_hand_through_a_model(answered, server, judge):
    rated(server, *(f"Rating: {rating}" for rating in (6, 0, 3, 2, 5, 1, 4, 3, 2, 4)))
    entry = score_directory(answered, judge=judge)["protocols"]["mmhal_official"]
    assert entry["summary"] == pytest.approx(
        {
            "overall": 3.0,
            "hallucination_rate": 0.4,  # 0, 2, 1, 2
            "attribute": (6 + 2) / 2,
            "adversarial": (0 + 4) / 2,
            "comparison": 3,
            "counting": 2,
            "relation": 5,
            "environment": 1,
            "holistic": 4,
            "other": 3,
        }
    )
    assert entry["judged_by"]["judge"] == "gpt-4-0314" and entry["judged_by"]["runs"] == 1
    assert len(server.requests) == 10
    _, records = read_predictions(answered / PREDICTIONS)
    assert records[0].prompt == "USER: <|image|>What is on table 0? ASSISTANT: "
    asked = server.requests[0]["messages"][0]["content"]
    assert "Image contents: Table, Cup " in asked and "\nReference answer: A cup.\n" in asked


def test_replies_without_one_rating_are_0_and_counted(answered, server, judge):
    rated(server, "Rating:4", "**Rating:** 4", "Rating: 3 or rating: 5", *["Rating: 6"] * 7)
    entry = score_directory(answered, judge=judge)["protocols"]["mmhal_official"]
    assert entry["summary"]["overall"] == pytest.approx(7 * 6 / 10)
    assert entry["summary"]["hallucination_rate"] == pytest.approx(0.3)
    assert entry["judged_by"]["failures"] == [{"unparsed": 3}]


def test_several_runs_give_their_mean_and_deviation(answered, server, judge):
    server.answer = lambda number, body: completion("Rating: 2" if number < 10 else "Rating: 4")
    summary = score_directory(answered, judge=replace(judge, runs=2))["protocols"]["mmhal_official"]["summary"]
    assert summary["overall"] == 3.0 and summary["deviations"]["overall"] == 1.0
    assert summary["hallucination_rate"] == 0.5


def test_a_replay_needs_no_network_and_says_what_it_lacks(answered, server, judge, monkeypatch):
    server.answer = lambda number, body: completion("Rating: 5")
    before = score_directory(answered, judge=judge)["protocols"]
    monkeypatch.delenv("OPENAI_API_KEY")
    replay = JudgeSettings(judge.cache, replay=True)
    assert score_directory(answered, judge=replay)["protocols"] == before
    assert len(server.requests) == 10
    with pytest.raises(JudgeCacheMiss, match="10 of 10 items"):
        score_directory(answered, judge=replace(replay, model="another"))


def test_the_submission_is_the_template_with_its_answers_in_order(answered, template, tmp_path):
    filled = json.loads(write_submission(answered, tmp_path / "out").read_text())
    _, records = read_predictions(answered / PREDICTIONS)
    assert [entry.pop("model_answer") for entry in filled] == [record.answer for record in records]
    assert filled == [{name: value for name, value in entry.items() if name != "model_answer"} for entry in template]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"question_type": "other"}, "'question_type' is 'other' where the order has relation"),
        ({"image_content": "Table"}, "'image_content'"),
        ({"gt_answer": ""}, "'gt_answer' is empty"),
        ({"image_src": "https://images.example/"}, "not a file under the image root"),
    ],
)
def test_a_broken_record_names_file_and_record(data, template, tmp_path, change, problem):
    template[4] |= change
    (data / "mmhal" / "response_template.json").write_text(json.dumps(template))
    with pytest.raises(ValueError, match=rf"response_template.json, record 5: .*{problem}"):
        plan_task(mmhal.TASK, Settings(data, tmp_path / "run"), {})


def test_a_missing_image_stops_before_generation(data, tmp_path):
    (data / "mmhal" / "images" / "3_o.jpg").unlink()
    with pytest.raises(ValueError, match="1 of 10 images or videos are missing, first .*3_o.jpg.*test_data.zip"):
        plan_task(mmhal.TASK, Settings(data, tmp_path / "run"), {})
