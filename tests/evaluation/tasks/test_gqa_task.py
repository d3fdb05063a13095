"""GQA, from its official file to exact match."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.report import compare, read_results
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.tasks import task_named

SELECT = {"operation": "select", "argument": "dog (1)", "dependencies": []}
EXIST = {"operation": "exist", "argument": "?", "dependencies": [0]}
NAME = {"operation": "query", "argument": "name", "dependencies": [0]}
COLOR = {"operation": "query", "argument": "color", "dependencies": [0]}


def question(text: str, answer: str, structural: str = "query", kind: str = "attr", **changes: Any) -> Any:
    fields = {
        "imageId": "n12",
        "question": text,
        "answer": answer,
        "fullAnswer": f"It is {answer}.",
        "isBalanced": True,
        "groups": {"global": "color" if structural == "query" else None, "local": "06-dog"},
        "types": {"structural": structural, "semantic": kind, "detailed": "activity"},
        "semantic": [SELECT, COLOR],
        "entailed": [],
        "equivalent": [],
        "annotations": {},
        "semanticStr": "select: dog (1)",
    }
    return {**fields, **changes}


QUESTIONS = {
    "001": question("What color is the dog?", "red"),
    "002": question("What color is it?", "red"),
    "003": question("What color is the cat?", "blue"),
    "004": question("Is there a dog?", "yes", "verify", "obj", semantic=[SELECT, EXIST]),
    "005": question("Who is it, man or boy?", "boy", "choose", "cat", semantic=[SELECT, NAME]),
    "006": question("Not asked?", "no", isBalanced=False),
    "007": question("Is it red and big?", "no", "logical", semantic=[SELECT, SELECT, COLOR]),
    "008": question("Do they differ?", "no", "compare"),
    "009": question("Is it outdoors?", "yes", "verify", "global"),
    "010": question("What is left of it?", "cat", "query", "rel", groups={"global": None, "local": None}),
    "011": question("Is it left of it?", "no", "verify", "rel"),
}
GIVEN = {
    "001": "Red.",  # right but for the official program
    "002": "blue",
    "003": "blue",
    "004": "yes",
    "005": "the boy",
    "007": "no",
    "008": "yes",
    "009": "Yes!",
    "010": "dog",
    "011": "",
}


@pytest.fixture
def gqa(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    write_json(tmp_path / "gqa" / "testdev_balanced_questions.json", QUESTIONS)
    draw(tmp_path / "gqa" / "images" / "n12.jpg")
    return tmp_path


def test_gqa_goes_from_its_file_to_accuracy_beside_the_published_one(gqa: Path, predicted: Callable[..., Path]) -> None:
    directory = predicted("gqa", gqa)
    result = score_directory(directory)
    _, records = read_predictions(directory / PREDICTIONS)
    assert [record.id for record in records] == list(GIVEN)  # the balanced ones
    assert records[0].prompt == (
        "USER: <|image|>What color is the dog? Answer the question using a single word or phrase. ASSISTANT: "
    )
    right = [record.answer.rstrip(".").lower() == QUESTIONS[record.id]["answer"] for record in records]
    assert result["protocols"]["llava"]["summary"]["accuracy"] == pytest.approx(sum(right) / 10)
    assert list(result["protocols"]) == ["llava", "official", "qwen", "lmms"]
    found = compare(read_results([directory]))
    assert {entry.published for entry in found} == {56.1}
    assert all("the paper says test-balanced, this is testdev-balanced" in entry.reasons for entry in found)


def test_accuracy_by_kind_and_distribution_are_those_worked_out_by_hand(
    gqa: Path, answered: Callable[..., Any]
) -> None:
    records = answered("gqa", gqa, GIVEN)
    scores = task_named("gqa").score(records, "llava")
    assert scores.scores == [1, 0, 1, 1, 0, 1, 0, 0, 0, 0]
    summary = scores.summary
    assert (summary["accuracy"], summary["open"], summary["binary"]) == pytest.approx((4 / 10, 2 / 4, 2 / 6))
    assert summary["per_structural"] == {
        "choose": 0,
        "compare": 0,
        "logical": 1,
        "query": pytest.approx(0.5),
        "verify": pytest.approx(1 / 3),
    }
    assert summary["per_semantic"] == {"attr": pytest.approx(3 / 5), "cat": 0, "global": 0, "obj": 1, "rel": 0}
    # Looking for existence and asking for the name are no steps: 004 and 005 have one, 007 three, the others two.
    assert summary["per_steps"] == {"1": pytest.approx(1 / 2), "2": pytest.approx(2 / 7), "3": 1}
    assert list(summary["per_words"]) == ["3", "4", "5", "6"]
    assert summary["per_words"]["4"] == pytest.approx(1 / 2)  # 002 and 004
    # Group color: red is right twice and given once, blue once and twice: (1 - 2)² / 2 + (2 - 1)² / 1 = 1.5, over 100.
    assert summary["distribution"] == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("protocol", "right"),
    [
        ("official", ["003", "004", "007"]),
        ("qwen", ["001", "003", "004", "005", "007", "009"]),
        ("lmms", ["001", "003", "004", "007", "009"]),
    ],
)
def test_protocols_differ_in_what_they_take_for_the_answer(
    protocol: str, right: list[str], gqa: Path, answered: Callable[..., Any]
) -> None:
    scores = task_named("gqa").score(answered("gqa", gqa, GIVEN), protocol)
    assert [name for name, score in zip(GIVEN, scores.scores, strict=True) if score] == right


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"answer": None}, "'answer' is None, not a string"),
        ({"isBalanced": "yes"}, "'isBalanced' is 'yes', not true or false"),
        ({"types": {"structural": "guess", "semantic": "attr"}}, ", types: 'structural' is 'guess', not one of query"),
        ({"types": None}, ", types: expected a JSON object"),
        ({"semantic": [{"operation": "select"}]}, r", semantic\[0\]: has no 'argument'"),
        ({"groups": {"global": ["color"]}}, r", groups: 'global' is \['color'\], not a string"),
        ({"imageId": "/n1"}, "is not a file under the image root"),
    ],
)
def test_a_broken_question_is_named_by_file_and_record(
    changes: dict[str, Any], problem: str, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    broken = {"1": question("What?", "a"), "2": question("What?", "a") | changes}
    write_json(tmp_path / "gqa" / "testdev_balanced_questions.json", broken)
    with pytest.raises(ValueError, match=rf"testdev_balanced_questions\.json, record 2 \('2'\).*{problem}"):
        task_named("gqa").load(tmp_path, "testdev-balanced", "space")


def test_a_missing_image_stops_before_any_model_is_needed(gqa: Path) -> None:
    (gqa / "gqa" / "images" / "n12.jpg").unlink()
    with pytest.raises(ValueError, match=r"GQA: 1 of 1 images .*n12\.jpg.*gqa/images"):
        plan_task(task_named("gqa"), Settings(gqa, gqa / "out"), {})
