"""MME from files in the official form to scores and the evaluation tool's files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from owl2.evaluation.metrics import mme_scores
from owl2.evaluation.metrics.mme import COGNITION, PERCEPTION
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory, write_submission
from owl2.evaluation.tasks import task_named

APART = ("landmark", "artwork", "celebrity", "posters", "scene")
ENDING = "Please answer yes or no."


@pytest.fixture
def data(tmp_path: Path, draw: Callable[..., Path]) -> Path:
    """One image in each category, two in `color`, which makes 30 questions, with the lists of the evaluation tool."""
    lists = tmp_path / "mme" / "eval_tool" / "Your_Results"
    lists.mkdir(parents=True)
    for category in (*PERCEPTION, *COGNITION):
        folder = tmp_path / "mme" / "MME_Benchmark_release_version" / category
        images, texts = (folder / "images", folder / "questions_answers_YN") if category in APART else (folder, folder)
        texts.mkdir(parents=True, exist_ok=True)
        lines = []
        for stem in ("0002", "0001") if category == "color" else ("0001",):
            questions = [(f"Is {stem} a {category}? {ENDING}", "Yes"), (f"Is {stem} not? {ENDING}", "No")]
            name = draw(images / f"{stem}{'.png' if category == 'code_reasoning' else '.jpg'}").name
            (texts / f"{stem}.txt").write_text("".join(f"{question}\t{answer}\n" for question, answer in questions))
            lines += [f"{name}\t{question}\t{answer}\n" for question, answer in questions]
        (lists / f"{category}.txt").write_text("".join(lines))
    return tmp_path


def test_mme_runs_from_files_to_scores(data, predicted):
    directory = predicted("mme", data)
    header, records = read_predictions(directory / PREDICTIONS)
    assert len(records) == 30 and header["samples_expected"] == 2374 and len(header["data"]) == 14
    assert records[0].prompt == (
        "USER: <|image|>Is 0001 a existence? \nAnswer the question using a single word or phrase. ASSISTANT: "
    )
    color = [record.details["image"] for record in records if record.details["category"] == "color"]
    assert color == ["0002.jpg", "0002.jpg", "0001.jpg", "0001.jpg"]  # the order of the list
    result = score_directory(directory)
    assert result["primary_metric"] == "perception" and set(result["protocols"]) == {"mme_official", "lmms"}


def test_mme_without_the_evaluation_tool_asks_the_same_questions(data):
    task = task_named("mme")
    listed = task.load(data, "all", "owl2")
    for path in (data / "mme" / "eval_tool" / "Your_Results").iterdir():
        path.unlink()
    from_folders = task.load(data, "all", "owl2")
    assert sorted(map(repr, from_folders)) == sorted(map(repr, listed))
    assert len(task.files(data, "all")) == 15 and all(path.is_file() for path in task.files(data, "all"))


def test_mme_scores_of_given_answers_are_those_of_the_metric_and_by_hand(data, answered):
    task = task_named("mme")
    samples = task.load(data, "all", "owl2")
    answers = {sample.id: sample.gold for sample in samples}  # all right
    answers["color/0002.jpg/2"] = "Not at all"  # begins with no
    answers["color/0001.jpg/1"] = "     yes"  # other
    answers["existence/0001.jpg/1"] = "N."
    records = answered("mme", data, answers)
    official = task.score(records, "mme_official")
    assert official.summary["per_category"]["color"] == pytest.approx(100 * 3 / 4 + 100 * 1 / 2)
    assert official.summary["per_category"]["existence"] == pytest.approx(50)
    assert official.summary["perception"] == pytest.approx(8 * 200 + 125 + 50)
    assert official.summary["cognition"] == 800 and official.summary["other"] == 2
    rows = [
        {"category": r.details["category"], "image": r.details["image"], "gt": r.gold, "pred": r.answer}
        for r in records
    ]
    assert mme_scores(rows)["perception"] == official.summary["perception"]
    lmms = task.score(records, "lmms")
    assert lmms.summary["per_category"]["color"] == 200 and lmms.summary["other"] == 0


def test_a_part_of_mme_scores_only_images_with_both_questions(data, predicted):
    summary = score_directory(predicted("mme", data, limit=5))["protocols"]["mme_official"]["summary"]
    assert summary["unpaired"] == 1 and len(summary["per_category"]) == 2


def test_files_for_the_evaluation_tool_have_four_fields(data, predicted, answered, tmp_path):
    directory = predicted("mme", data)
    folder = write_submission(directory, tmp_path / "submission")
    assert {path.stem for path in folder.iterdir()} == {*PERCEPTION, *COGNITION}
    listed = (data / "mme" / "eval_tool" / "Your_Results" / "color.txt").read_text().splitlines()
    written = (folder / "color.txt").read_text().splitlines()
    assert [line.rsplit("\t", 1)[0] for line in written] == listed
    samples = task_named("mme").load(data, "all", "owl2")
    records = answered("mme", data, {sample.id: "yes,\tit is\nso" for sample in samples})
    task_named("mme").submission(records, tmp_path)
    assert (tmp_path / "mme" / "count.txt").read_text().splitlines()[0].split("\t")[3] == "yes, it is so"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("0001.jpg\tIs it?\tYes\n0001.jpg\tIs it not?\n", r"line 2: 2 fields between tabs, not 3"),
        ("0001.jpg\tIs it?\tYes\n0001.jpg\tIs it not?\tmaybe\n", r"line 2: .*'maybe', not Yes or No"),
        ("0001.jpg\tIs it?\tYes\n0002.jpg\tIs it not?\tNo\n", r"line 2: asks about '0002\.jpg'"),
        ("0001.jpg\tIs it?\tYes\n", r"line 1: 1 rows ask about '0001\.jpg', not 2"),
    ],
)
def test_a_broken_line_names_file_and_line(data, lines, problem):
    (data / "mme" / "eval_tool" / "Your_Results" / "posters.txt").write_text(lines)
    with pytest.raises(ValueError, match=rf"posters\.txt, {problem}"):
        task_named("mme").load(data, "all", "owl2")


def test_missing_images_and_files_of_mme_stop_before_any_prediction(data):
    task = task_named("mme")
    (data / "mme" / "MME_Benchmark_release_version" / "scene" / "images" / "0001.jpg").unlink()
    with pytest.raises(ValueError, match=r"missing, first .*scene/images/0001\.jpg"):
        plan_task(task, Settings(data, data / "run"), {})
    with pytest.raises(ValueError, match=r"needs .*existence\.txt, which was not found\. Put MME_Benchmark"):
        plan_task(task, Settings(data / "nowhere", data / "run"), {})
