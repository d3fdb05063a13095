"""Q-Bench from files in the official forms to scores: perception (A1) and quality (A3)."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owl2.evaluation.data_check import check_data
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory, write_submission
from owl2.evaluation.task import Prediction, Ranking
from owl2.evaluation.tasks import task_named
from owl2.evaluation.tasks.shared.correlation import pearson, spearman

ASKED = [
    ("Is the image blurry?", ["Yes", "No"], 0),
    ("What is most distorted?", ["The dog", "The sky", "Average"], 1),
    ("How is the lighting?", ["Bright", "Dark", "Medium", "N/A"], 2),
]


def question(number: int, has_answer: bool = True, **changes: Any) -> dict[str, Any]:
    text, candidates, kind = ASKED[number % 3]
    fields: dict[str, Any] = {
        "img_path": f"{number:05}.jpg",
        "question": text,
        "candidates": candidates,
        "type": kind,
        "concern": number % 4,
    }
    if has_answer:
        fields["correct_ans"] = candidates[number % 2]
    return {**fields, **changes}


@pytest.fixture
def data(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    """Twelve questions of each split, and one database of A3."""
    write_json(tmp_path / "qbench" / "llvisionqa_dev.json", [question(number) for number in range(12)])
    write_json(tmp_path / "qbench" / "llvisionqa_test.json", [question(number, False) for number in range(12)])
    for number in range(12):
        draw(tmp_path / "qbench" / "images" / f"{number:05}.jpg")
    images = [{"img_path": f"{number}.jpg", "gt_score": f"{number % 4}.5"} for number in range(10)]
    write_json(tmp_path / "qbench" / "a3" / "koniq.json", images)
    for image in images:
        draw(tmp_path / "qbench" / "a3" / "koniq" / image["img_path"])
    return tmp_path


def test_qbench_runs_from_files_to_scores_by_type_and_concern(data, predicted):
    directory = predicted("qbench", data)
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["aspect"] == "crop" and len(records) == 12
    assert records[1].prompt == (
        "USER: <|image|>What is most distorted?\nA. The dog\nB. The sky\nC. Average\n"
        "Answer with the option's letter from the given choices directly.\n ASSISTANT:"
    )
    result = score_directory(directory)
    assert set(result["protocols"]) == {"first_letter", "anywhere"}
    summary = result["protocols"]["first_letter"]["summary"]
    assert set(summary["per_type"]) == {"yes_or_no", "what", "how"}
    assert set(summary["per_concern"]) == {"distortion", "others", "in_context_distortion", "in_context_others"}


def test_qbench_scores_of_given_answers_are_those_worked_out_by_hand(data, answered):
    # Gold is A where the number is even, else B.
    given = [
        "A.",
        "B. The sky",
        "a",
        "No",
        "D. Average",
        "B",
        "A",
        "(B)",
        "Bright",
        "B) No",
        "The dog",
        "Dark or Bright",
    ]
    records = answered("qbench", data, {str(number): text for number, text in enumerate(given)})
    task = task_named("qbench")
    strict = task.score(records, "first_letter")
    assert strict.parsed == ["A", "B", None, "B", "C", "B", "A", "B", "A", "B", "A", None]
    assert strict.summary["accuracy"] == pytest.approx(9 / 12) and strict.summary["undecided"] == 2
    assert strict.summary["per_type"] == {"how": pytest.approx(2 / 4), "what": pytest.approx(3 / 4), "yes_or_no": 1}
    assert strict.summary["per_concern"]["in_context_others"] == pytest.approx(2 / 3)  # 3, 7, 11
    anywhere = task.score(records, "anywhere")
    assert anywhere.scores == [1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1]  # the letters A and B, wherever they are


def test_the_hub_s_parquet_files_ask_the_same(data, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    task = task_named("qbench")
    samples = task.load(data, "dev", "llava")
    assert samples[0].prompt == ("Is the image blurry?\nChoose between one of the options as follows:\nA. Yes\nB. No\n")
    rows = []
    for number in range(12):
        text, candidates, kind = ASKED[number % 3]
        buffer = BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        options = [*candidates, "N/A", "N/A"][:4]
        rows.append(
            {
                "id": number,
                "image": {"bytes": buffer.getvalue(), "path": f"{number}.png"},
                "question": text,
                **{f"option{place}": option for place, option in enumerate(options)},
                "question_type": kind,
                "question_concern": number % 4,
                "correct_choice": "AB"[number % 2],
            }
        )
    folder = tmp_path / "hub" / "qbench" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "dev-00000-of-00001.parquet")
    found = task.load(tmp_path / "hub", "dev", "llava")
    assert [sample.gold for sample in found] == [sample.gold for sample in samples]
    assert found[1].prompt == samples[1].prompt and isinstance(found[0].images[0], bytes)
    assert found[2].prompt.endswith("A. Bright\nB. Dark\nC. Medium\n")  # N/A is no option there


def test_answers_of_the_test_split_are_not_scored_but_submitted(data, predicted, tmp_path):
    directory = predicted("qbench", data, split="test")
    summary = score_directory(directory)["protocols"]["first_letter"]["summary"]
    assert summary["without_gold"] == 12 and "accuracy" not in summary
    written = json.loads(write_submission(directory, tmp_path / "out").read_text())
    _, records = read_predictions(directory / PREDICTIONS)
    assert written[3] == {**question(3, False), "response": records[3].answer}


def test_the_quality_of_images_is_the_likelihood_of_good_against_poor(data, predicted):
    directory = predicted("qbench", data, split="a3_koniq")
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["prompt"] == "quality" and records[0].gold == 0.5
    assert records[0].prompt == "USER: <|image|>Rate the quality of the image. ASSISTANT:"
    assert records[0].ranking.choices == (" The quality of the image is good", " The quality of the image is poor")
    result = score_directory(directory)
    assert set(result["protocols"]) == {"quality"}
    assert -1 <= result["protocols"]["quality"]["summary"]["srcc"] <= 1
    with pytest.raises(ValueError, match="the split a3_koniq of qbench takes the prompts quality, quality_direct"):
        plan_task(task_named("qbench"), Settings(data, data / "run", split="a3_koniq", prompt="llava"), {})
    with pytest.raises(ValueError, match="public answers, a3_koniq: a server takes those of dev, test"):
        write_submission(directory, data / "out")


def test_quality_correlates_with_opinions_as_worked_out_by_hand():
    def rated(name: str, good: float, poor: float, opinion: float) -> Prediction:
        return Prediction(name, "", Ranking((" good", " poor"), (good, poor), (1, 1), 0.0, 0), opinion, {})

    records = [rated("a", -1.0, -3.0, 4.0), rated("b", -3.0, -1.0, 1.0), rated("c", -2.0, -2.0, 3.0)]
    scores = task_named("qbench").score(records, "quality")
    assert scores.parsed == pytest.approx([0.505, 0.495, 0.5], abs=1e-6)  # logits by 100: 1 / (1 + exp(-0.02))
    assert scores.summary["srcc"] == pytest.approx(1.0)
    assert scores.summary["plcc"] == pytest.approx(0.9819805, abs=1e-5)  # of (2, -2, 0) and (4, 1, 3)


def test_correlations_are_those_of_numpy_with_equal_values_sharing_their_mean_rank():
    first, second = [1.0, 2.0, 2.0, 5.0, 4.0, 2.0], [3.0, 1.0, 2.0, 9.0, 9.0, 0.5]
    ranks = [1, 3, 3, 6, 5, 3], [4, 2, 3, 5.5, 5.5, 1]
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert spearman(first, second) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None and pearson([1.0], [2.0]) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"correct_ans": "Maybe"}, r"'correct_ans' 'Maybe' is not one of"),
        ({"candidates": ["Dark"], "correct_ans": "Dark"}, "1 options"),
        ({"type": 3}, "'type' is 3, not a code from 0 to 2"),
        ({"concern": None}, "'concern' is None"),
        ({"correct_ans": None}, "has no answer"),
        ({"img_path": "../a.jpg"}, "not a file under the image root"),
    ],
)
def test_a_broken_question_names_file_and_record(data, write_json, changes, problem):
    write_json(data / "qbench" / "llvisionqa_dev.json", [question(0), question(1, **changes)])
    with pytest.raises(ValueError, match=rf"llvisionqa_dev\.json, record 2: .*{problem}"):
        task_named("qbench").load(data, "dev", "q_instruct")


def test_types_that_mean_something_else_are_noticed(data, write_json):
    swapped = [question(number, type={0: 0, 1: 2, 2: 1}[number % 3]) for number in range(12)]
    write_json(data / "qbench" / "llvisionqa_dev.json", swapped)
    with pytest.raises(ValueError, match='of 4 questions that begin with "How" only 0 are of type 2'):
        task_named("qbench").load(data, "dev", "q_instruct")


def test_a_broken_opinion_and_missing_images_stop_before_any_prediction(data, write_json):
    (data / "qbench" / "images" / "00003.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 12 images or videos are missing, first .*00003\.jpg"):
        plan_task(task_named("qbench"), Settings(data, data / "run"), {})
    write_json(data / "qbench" / "a3" / "koniq.json", [{"img_path": "0.jpg", "gt_score": "good"}])
    with pytest.raises(ValueError, match=r"koniq\.json, record 1: 'gt_score' is 'good'"):
        task_named("qbench").load(data, "a3_koniq", "quality")


def test_check_says_which_splits_are_complete(data, monkeypatch):
    monkeypatch.setattr("owl2.evaluation.data_check.TASKS", ("qbench",))
    states = {found.split: found.state for found in check_data(data)}
    assert states["dev"] == states["test"] == states["a3_koniq"] == "complete" and states["a3_spaq"] == "absent"
