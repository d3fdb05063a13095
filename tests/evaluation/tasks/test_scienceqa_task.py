"""ScienceQA-IMG from files in the official form to scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.task import Prediction, Ranking
from owl2.evaluation.tasks import task_named

SUBJECTS = ("natural science", "social science", "language science")


def problem(number: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "question": f"Which is number {number}?",
        "choices": ["a rock ", "an ocean", "none", "NA", "no"][: 2 + number % 4],
        "answer": number % 2,
        "hint": "" if number % 3 else "Look at\nthe picture.",
        "image": "image.png" if number % 5 else None,
        "task": "closed choice",
        "grade": f"grade{number + 1}",
        "subject": SUBJECTS[number % 3],
        "topic": "geography",
        "category": "maps",
        "skill": "read a map",
        "lecture": "",
        "solution": "",
        "split": "test",
    }
    return {**fields, **changes}


@pytest.fixture
def data(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    """Twelve problems of the test split, of which nine have an image, and one of another split."""
    problems = {str(number): problem(number) for number in range(12)}
    write_json(tmp_path / "scienceqa" / "problems.json", {**problems, "99": problem(99, split="train")})
    splits = {"train": ["99"], "val": [], "test": list(problems), "minitest": ["0"]}
    write_json(tmp_path / "scienceqa" / "pid_splits.json", splits)
    for number, values in problems.items():
        if values["image"]:
            draw(tmp_path / "scienceqa" / "images" / "test" / number / "image.png")
    return tmp_path


def test_scienceqa_runs_from_files_to_scores_of_the_questions_with_an_image(data, predicted):
    directory = predicted("scienceqa", data)
    header, records = read_predictions(directory / PREDICTIONS)
    assert [record.id for record in records] == ["1", "2", "3", "4", "6", "7", "8", "9", "11"]
    assert header["samples_expected"] == 2017 and header["aspect"] is None
    assert records[0].prompt.startswith("USER: <|image|>N/A\nWhich is number 1?\nA. a rock \nB. an ocean\nC. none\n")
    assert records[0].prompt.endswith("from the given choices directly. ASSISTANT: ")
    result = score_directory(directory)
    assert set(result["protocols"]) == {"lmms", "llava"} and result["default_protocol"] == "lmms"


def test_scienceqa_prompts_are_those_of_the_programs(data):
    load = task_named("scienceqa").load
    owl2, llava, qwen = (load(data, "test", name)[2] for name in ("owl2", "llava", "qwen"))
    options = "A. a rock \nB. an ocean\nC. none\nD. NA\nE. no"
    hint, question = "Look at\nthe picture.", "Which is number 3?"
    assert owl2.prompt == (
        f"{hint}\n{question}\n{options}\nAnswer with the option\u2019s letter from the given choices directly."
    )
    assert llava.prompt == (
        f"Context: {hint}\n{question}\n{options}\nAnswer with the option's letter from the given choices directly."
    )
    assert qwen.prompt == f"Context: {hint}\nQuestion: {question}\nOptions: {options}\nAnswer:"
    assert qwen.choices == (" A", " B", " C", " D", " E") and not qwen.uses_chat_template
    assert load(data, "test", "llava")[0].prompt.startswith("Which is number 1?\nA. a rock")
    assert load(data, "test", "qwen")[0].prompt.startswith("Context: N/A\n")


def test_scienceqa_letters_can_be_ranked_by_likelihood(data, predicted):
    result = score_directory(predicted("scienceqa", data, prompt="qwen"))
    assert set(result["protocols"]) == {"likelihood"}
    ranking = Ranking((" A", " B"), (-2.0, -1.0), (1, 1), 0.0, 0)
    details = {"choices": 2, "subject": "natural science", "has_hint": True, "grade": 3}
    assert task_named("scienceqa").score([Prediction("1", "", ranking, 1, details)], "likelihood").scores == [1.0]


def test_scienceqa_scores_of_given_answers_are_those_worked_out_by_hand(data, answered):
    # Gold of number n is B where n is odd, else A.
    given = ["B", "b", "B. an ocean", "A.", "(A)", "The answer is B.", "A", "C", "B"]
    answers = dict(zip(("1", "2", "3", "4", "6", "7", "8", "9", "11"), given, strict=True))
    records = answered("scienceqa", data, answers)
    task = task_named("scienceqa")
    lmms = task.score(records, "lmms")
    assert lmms.parsed == [1, 1, 1, 0, None, None, 0, 2, 1]
    assert lmms.scores == [1, 0, 1, 1, 0, 0, 1, 0, 1]
    assert lmms.summary["accuracy"] == pytest.approx(5 / 9) and lmms.summary["failed"] == 2
    assert lmms.summary["per_subject"] == {
        "language science": pytest.approx(3 / 3 - 1 / 3),  # 2, 8, 11
        "natural science": pytest.approx(1 / 3),  # 3, 6, 9
        "social science": pytest.approx(2 / 3),  # 1, 4, 7
    }
    assert lmms.summary["per_context"] == {"image": pytest.approx(4 / 6), "text and image": pytest.approx(1 / 3)}
    assert lmms.summary["per_grade"] == {"1-6": pytest.approx(3 / 4), "7-12": pytest.approx(2 / 5)}
    assert task.score(records, "llava").parsed == [1, None, 1, None, None, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("changes", "problem_text"),
    [
        ({"answer": 9}, r"3 choices with the answer 9"),
        ({"choices": ["one"]}, r"1 choices"),
        ({"grade": "K"}, r"'grade' is 'K'"),
        ({"subject": "history"}, r"'subject' is 'history', not one of natural science"),
        ({"image": "../x.png"}, r"not a file under the image root"),
        ({"split": "train"}, r"'split' is 'train'.*has the problem in 'test'"),
    ],
)
def test_a_broken_problem_names_file_and_record(data, write_json, changes, problem_text):
    problems = {"0": problem(0), "1": problem(1, **changes)}
    write_json(data / "scienceqa" / "problems.json", problems)
    write_json(data / "scienceqa" / "pid_splits.json", {"test": ["0", "1"]})
    with pytest.raises(ValueError, match=rf"problems\.json, record 2 \('1'\): .*{problem_text}"):
        task_named("scienceqa").load(data, "test", "owl2")


def test_a_problem_that_does_not_say_whether_it_has_an_image_is_not_taken_for_one_without(data, write_json):
    broken = problem(1)
    del broken["image"]
    write_json(data / "scienceqa" / "problems.json", {"0": problem(0), "1": broken})
    write_json(data / "scienceqa" / "pid_splits.json", {"test": ["0", "1"]})
    with pytest.raises(ValueError, match=r"problems\.json, record 2 \('1'\): has no 'image'"):
        task_named("scienceqa").load(data, "test", "owl2")


def test_a_problem_that_is_not_there_and_a_missing_image_stop_before_any_prediction(data, write_json):
    (data / "scienceqa" / "images" / "test" / "7" / "image.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 9 images or videos are missing, first .*7/image\.png"):
        plan_task(task_named("scienceqa"), Settings(data, data / "run"), {})
    write_json(data / "scienceqa" / "pid_splits.json", {"test": ["0", "77"]})
    with pytest.raises(ValueError, match=r"pid_splits\.json: 'test' names the problem '77', which is not in"):
        task_named("scienceqa").load(data, "test", "owl2")
