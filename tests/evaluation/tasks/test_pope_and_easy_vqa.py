"""POPE, from its official files to scores, and easy-VQA, from its package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pope_data import write_pope

from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions, record_of
from owl2.evaluation.results.report import compare, read_results
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.tasks import task_named

IMAGE = "COCO_val2014_000000000009.jpg"


def rows(objects: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"question_id": number, "image": IMAGE, "text": f"Is there a {thing} in the image?", "label": label}
        for number, (thing, label) in enumerate(objects.items(), start=1)
    ]


FILES = {
    "random": rows({"dog": "yes", "car": "no", "cup": "yes", "owl": "no"}),
    "popular": rows({"dog": "yes", "chair": "no"}),
    "adversarial": rows({"dog": "yes", "cat": "no", "cup": "yes", "fork": "no"}),
}


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    """Ten questions; the numbers of the questions start again in each file."""
    return write_pope(tmp_path, FILES)


def test_pope_goes_from_files_to_scores_beside_all_that_are_published(
    pope: Path, predicted: Callable[..., Path]
) -> None:
    directory = predicted("pope", pope)
    score_directory(directory)
    _, records = read_predictions(directory / PREDICTIONS)
    assert len(records) == 10 and records[0].prompt == (
        "USER: <|image|>Is there a dog in the image?\nAnswer the question using a single word or phrase. ASSISTANT: "
    )
    found = compare(read_results([directory]))
    assert len(found) == 15 and found[0].published == 88.28 and found[-1].published == 48.0
    spaced = task_named("pope").load(pope, "coco", "space")[0].prompt
    assert spaced == "Is there a dog in the image? Answer the question using a single word or phrase."


def test_pope_scores_each_subset_and_takes_their_unweighted_mean(pope: Path, answered: Callable[..., Any]) -> None:
    given = {
        "random-1": "Yes",
        "random-2": "No.",
        "random-3": "No, there is no cup",
        "random-4": "Yes, an owl",
        "popular-1": "yes",
        "popular-2": "There is not.",
        "adversarial-1": "yes",
        "adversarial-2": "yes",
        "adversarial-3": "yes",
        "adversarial-4": "NO",  # only `No`, `no` and `not` say no
    }
    scores = task_named("pope").score(answered("pope", pope, given), "pope_official")
    assert scores.parsed == ["yes", "no", "no", "yes", "yes", "no", "yes", "yes", "yes", "yes"]
    assert scores.scores == [1, 1, 0, 0, 1, 1, 1, 0, 1, 0]
    half = {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5}
    assert scores.summary["random"] == half
    assert scores.summary["popular"] == {**dict.fromkeys(half, 1.0), "yes_ratio": 0.5}
    assert scores.summary["adversarial"] == pytest.approx({**half, "recall": 1, "f1": 2 / 3, "yes_ratio": 1})
    assert scores.summary["accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)  # not 6 of 10
    assert scores.summary["f1"] == pytest.approx((0.5 + 1 + 2 / 3) / 3)
    assert scores.summary["yes_ratio"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label": "maybe"}, "'label' is 'maybe', not yes or no"),
        ({"question_id": None}, "'question_id' is None, not an integer"),
        ({"image": "../" + IMAGE}, "is not a file under the image root"),
        ({"text": ""}, "'text' is empty"),
    ],
)
def test_a_broken_question_of_pope_is_named_by_file_and_line(changes: dict[str, Any], problem: str, pope: Path) -> None:
    first, second = FILES["popular"]
    write_pope(pope, {"popular": [first, {**second, **changes}]})
    with pytest.raises(ValueError, match=rf"coco_pope_popular\.json, record 2: .*{problem}"):
        task_named("pope").load(pope, "coco", "newline")


def test_a_missing_file_or_image_of_pope_stops_before_any_model_is_needed(pope: Path) -> None:
    (pope / "coco" / "val2014" / IMAGE).unlink()
    with pytest.raises(ValueError, match=r"POPE: 1 of 1 images .*0009\.jpg.*val2014"):
        plan_task(task_named("pope"), Settings(pope, pope / "out"), {})
    (pope / "pope" / "coco_pope_popular.json").unlink()
    with pytest.raises(ValueError, match=r"POPE needs .*coco_pope_popular\.json, which was not found"):
        plan_task(task_named("pope"), Settings(pope, pope / "out"), {})


def test_easy_vqa_runs_from_its_package_to_exact_match(tmp_path: Path, predicted: Callable[..., Path]) -> None:
    pytest.importorskip("easy_vqa")
    task = task_named("easy_vqa")
    directory = predicted("easy_vqa", tmp_path, limit=10)
    assert score_directory(directory)["partial"]
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["samples_of_split"] == header["samples_expected"] == 9673 and len(records) == 10
    assert records[0].prompt.endswith("ASSISTANT:")  # no space behind, as its models were trained
    samples = task.load(tmp_path, "test", "question")[:10]
    given = [sample.gold.capitalize() if number < 4 else "none" for number, sample in enumerate(samples)]
    scores = task.score([record_of(*pair) for pair in zip(samples, [""] * 10, given, strict=True)], "exact_match")
    assert scores.scores == [1] * 4 + [0] * 6 and scores.summary["accuracy"] == pytest.approx(0.4)
