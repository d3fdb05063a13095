"""MMBench from TSV files in the official forms to CircularEval, a judge's fallback and the server's table."""

import base64
import csv
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from PIL import Image

from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions, record_of, write_predictions
from owl2.evaluation.results.scoring import JudgeSettings, score_directory, write_submission
from owl2.evaluation.tasks import task_named

COLUMNS = [
    *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category"),
    *("comment", "split"),
]
QUESTIONS = {  # index: options, right one, hint, category, l2-category
    3: (["a cat", "a dog", "None"], "a dog", "", "identity", "finegrained_perception (instance-level)"),
    7: (["red", "NA"], "red", "Mind the\ncolours.", "color", "coarse_perception"),
    12: (["=1+1", "two", "three", "four"], "three", "", "sum", "logic_reasoning"),
}


def picture(number: int, size: int = 24) -> str:
    buffer = BytesIO()
    Image.radial_gradient("L").resize((size, size + number)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def table(has_answers: bool = True, shares_pictures: bool = False) -> list[dict[str, Any]]:
    """Every rotation of three questions, nine rows: first rotations first, as in the official files."""
    rows = []
    for rotation in range(4):
        for index, (options, right, hint, category, l2) in QUESTIONS.items():
            if rotation >= len(options):
                continue
            turned = options[rotation:] + options[:rotation]
            named = dict(zip("ABCD", turned, strict=False))
            rows.append(
                {
                    **dict.fromkeys(COLUMNS, ""),
                    "index": index + rotation * 1_000_000,
                    "question": f"What is {index}?",
                    "hint": hint,
                    **named,
                    "answer": "ABCD"[turned.index(right)],
                    "category": category,
                    "image": str(index) if shares_pictures and rotation else picture(index),
                    "l2-category": l2,
                    "split": "dev" if has_answers else "test",
                }
            )
            if not has_answers:
                del rows[-1]["answer"]
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_table(tmp_path / "mmbench" / "mmbench_dev_20230712.tsv", table())
    write_table(tmp_path / "mmbench" / "mmbench_test_20230712.tsv", table(has_answers=False))
    write_table(tmp_path / "mmbench" / "MMBench_DEV_EN.tsv", table(shares_pictures=True))
    return tmp_path


def test_mmbench_runs_from_the_table_to_circular_scores(data, predicted):
    directory = predicted("mmbench", data)
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["samples_expected"] == 4377 and len(records) == 9
    assert [record.id for record in records[:4]] == ["3", "1000003", "2000003", "7"]
    assert records[1].prompt == (
        "USER: <|image|>N/A\nWhat is 3?\nA. a dog\nB. None\nC. a cat\n"
        "Answer with the option\u2019s letter from the given choices directly. ASSISTANT: "
    )
    assert records[3].prompt.startswith("USER: <|image|>Mind the\ncolours.\nWhat is 7?\nA. red\nB. NA\n")
    result = score_directory(directory)
    assert set(result["protocols"]) == {"vlmevalkit", "legacy2023"}
    summary = result["protocols"]["vlmevalkit"]["summary"]
    assert summary["questions"] == 3 and set(summary["per_l2"]) == {"FP-S", "CP", "LR"}


def test_mmbench_variants_of_the_prompt(data):
    load = task_named("mmbench").load
    options = "A. red\nB. NA"
    assert load(data, "dev", "llava")[3].prompt == (
        f"Mind the\ncolours.\nWhat is 7?\n{options}\nAnswer with the option's letter from the given choices directly."
    )
    assert load(data, "dev", "vlmevalkit")[3].prompt == (
        f"Hint: Mind the\ncolours.\nWhat is 7?\n{options}\n\n"
        "Answer with the option\u2019s letter from the given choices directly.  \n"
    )
    assert load(data, "dev", "llava")[0].prompt.startswith("What is 3?\n")


def test_rows_that_name_the_row_of_their_picture_are_as_those_that_hold_it(data):
    load = task_named("mmbench").load
    shared, own = load(data, "dev_vlmevalkit", "owl2"), load(data, "dev", "owl2")
    assert shared == own and shared[0].images[0] is shared[1].images[0]


def answered(data: Path, directory: Path, answers: dict[str, str]) -> Path:
    """The predictions of a run with other answers: the gold letters but for those given."""
    header, records = read_predictions(directory / PREDICTIONS)
    samples = task_named("mmbench").load(data, header["split"], "owl2")
    records = [
        record_of(sample, sample.prompt, answers.get(sample.id, sample.gold or "Nothing.")) for sample in samples
    ]
    write_predictions(directory / PREDICTIONS, header, records, None)
    return directory


def test_circular_scores_of_given_answers_are_those_worked_out_by_hand(data, predicted):
    given = {"2000003": "A", "7": "A.", "1000007": "the answer is B", "3000012": "I see many things"}
    # 2000003: None, a cat, a dog: gold C, so question 3 is lost; 7 holds; 12 has an undecided row, so it is lost.
    result = score_directory(answered(data, predicted("mmbench", data), given))
    summary = result["protocols"]["vlmevalkit"]["summary"]
    assert summary["accuracy"] == pytest.approx(1 / 3) and summary["first_pass"] == 1 and summary["undecided"] == 1
    assert summary["per_l2"] == {"FP-S": 0, "CP": 1, "LR": 0}
    assert summary["per_category"] == {"identity": 0, "color": 1, "sum": 0}
    assert summary["per_split"] == {"dev": pytest.approx(1 / 3)}


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeSettings:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    return JudgeSettings(tmp_path / "cache", base_url=server.url)


UNDECIDED = "It is hard to say. There is something that I would rather not name here at all, not at all"


def test_the_judge_is_asked_only_where_it_can_decide(data, predicted, server, judge):
    given = {
        "3": UNDECIDED,  # gold B; a right letter saves the question
        "7": UNDECIDED,
        "1000007": "A",  # wrong, so that nobody is asked about question 7
        "12": UNDECIDED,
        "1000012": UNDECIDED,
    }
    replies = {"What is 3?": "B", "What is 12?": "I cannot tell"}

    def reply(number: int, body: dict[str, Any]) -> bytes:
        text = body["messages"][-1]["content"]
        return completion(next(reply for question, reply in replies.items() if question in text))

    server.answer = reply
    result = score_directory(answered(data, predicted("mmbench", data), given), judge=judge)
    judged = result["protocols"]["judged"]
    assert judged["summary"]["accuracy"] == pytest.approx(1 / 3)
    assert judged["summary"]["per_l2"] == {"FP-S": 1, "CP": 0, "LR": 0}
    assert judged["judged_by"]["judged"] == 3 and judged["judged_by"]["failures"] == [{"unparsed": 2}]
    assert len(server.requests) == 1 + 2 * 3  # what cannot be read is asked three times, then counts as wrong
    assert result["protocols"]["vlmevalkit"]["summary"]["accuracy"] == 0
    again = JudgeSettings(judge.cache, replay=True)
    replayed = score_directory(data / "run" / "mmbench", "judged", judge=again)
    assert replayed["protocols"]["judged"]["summary"] == judged["summary"]


def test_several_runs_of_the_judge_give_mean_and_deviation(data, predicted, server, judge):
    server.answer = lambda number, body: completion("B" if number == 0 else "A")
    directory = answered(data, predicted("mmbench", data), {"3": UNDECIDED})
    settings = JudgeSettings(judge.cache, runs=2, base_url=server.url)
    summary = score_directory(directory, "judged", judge=settings)["protocols"]["judged"]["summary"]
    assert summary["accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert summary["deviations"]["accuracy"] == pytest.approx(1 / 6)
    assert summary["per_l2"] == {"FP-S": 0.5, "CP": 1, "LR": 1}


def test_the_table_for_the_server_has_every_row_as_text(data, predicted, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    directory = answered(data, predicted("mmbench", data, split="test"), {"3": "\x01B", "7": "=cmd", "12": "B"})
    result = score_directory(directory)
    assert result["protocols"]["vlmevalkit"]["summary"] == {"without_gold": 9, "read": 1}
    sheet = openpyxl.load_workbook(write_submission(directory, tmp_path / "out")).active
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "prediction", "A", "B", "C", "D")
    assert [row[0] for row in rows[1:]] == [row["index"] for row in table()]  # the order of the file
    assert rows[1][1:] == ("What is 3?", "B", "a cat", "a dog", "None", None)
    assert rows[2][1:] == ("What is 7?", "=cmd", "red", "NA", None, None)
    assert rows[3][3] == "=1+1" and sheet.cell(4, 4).data_type == "s" and sheet.cell(3, 3).data_type == "s"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"index": "x"}, r"record 5: 'index' is 'x', not an integer"),
        ({"index": 3}, r"record 5: the index 3 occurs a second time"),
        ({"answer": "C"}, r"record 5: the answer 'C' with the options AB"),
        (
            {"image": "not base64, but longer than a reference to another row can ever be ......"},
            "record 5: 'image' is",
        ),
        (
            {"image": base64.b64encode(b"no picture, but valid base64 " * 4).decode()},
            r"record 5: 'image' is not a pict",
        ),
        ({"image": "17"}, r"record 5: 'image' names the row '17', which holds no picture"),
        ({"image": ""}, r"record 5: 'image' is not a picture"),
        ({"index": 1_000_008}, r"record 5: the question's first row, index 8, is not in the file"),
    ],
)
def test_a_broken_row_names_file_and_record(data, changes, problem):
    rows = table()
    rows[4] |= changes
    write_table(data / "mmbench" / "mmbench_dev_20230712.tsv", rows)
    with pytest.raises(ValueError, match=rf"mmbench_dev_20230712\.tsv, {problem}"):
        plan_task(task_named("mmbench"), Settings(data, data / "run"), {})


def test_a_table_without_a_column_or_with_a_short_row_is_refused(data):
    path = data / "mmbench" / "mmbench_dev_20230712.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:3], "5\tWhat?"]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"record 3: 2 cells for 14 columns|record 2: "):
        task_named("mmbench").load(data, "dev", "owl2")
    path.write_text("index,question,image\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no column 'index'"):
        task_named("mmbench").load(data, "dev", "owl2")


def test_a_missing_openpyxl_names_the_extra(data, predicted, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"owl2\[eval\]"):
        write_submission(predicted("mmbench", data, split="test"), tmp_path / "out")
