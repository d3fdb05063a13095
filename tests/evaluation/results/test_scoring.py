"""Scores from files of predictions alone: complete, refused, partial, again, and under another protocol."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2 import __version__
from owl2.evaluation.prediction_files import PREDICTIONS, ids_hash, write_predictions
from owl2.evaluation.results.scoring import SCORES, score_directory, task_directories, write_submission
from owl2.evaluation.task import Prediction

ANSWERS = {"1": ("cat", "Cat."), "2": ("two", "2"), "3": ("dog", "cat"), "4": ("man", "man")}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Predictions of four of the four questions of a small MSRVTT-QA."""
    records = [
        Prediction(name, "sent", answer, gold, {"question": "what?", "video": "video1"})
        for name, (gold, answer) in ANSWERS.items()
    ]
    header = {
        "task": "msrvtt_qa",
        "split": "test",
        "prompt": "short",
        "suffix": " ",
        "model": {"name": "tiny"},
        "samples": 4,
        "samples_of_split": 4,
        "samples_expected": 72821,
        "ids_sha256": ids_hash(ANSWERS),
    }
    path = tmp_path / "run" / "msrvtt_qa"
    path.mkdir(parents=True)
    write_predictions(path / PREDICTIONS, header, records, None)
    return path


def edit(directory: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Changes the lines of a file of predictions; the first is the header."""
    path = directory / PREDICTIONS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def accuracy(result: dict[str, Any], protocol: str = "exact_match") -> float:
    return result["protocols"][protocol]["summary"]["accuracy"]


def test_a_score_is_that_of_the_file_wherever_it_lies(directory, tmp_path):
    result = score_directory(directory)
    assert accuracy(result) == 2 / 4 and accuracy(result, "vqa_norm") == 3 / 4
    assert result["partial"] is False and (result["samples"], result["samples_expected"]) == (4, 72821)
    moved = Path(shutil.copytree(directory, tmp_path / "elsewhere"))
    (moved / SCORES).unlink()
    assert score_directory(moved) == result == json.loads((moved / SCORES).read_text())


def test_each_line_gets_what_was_parsed_and_its_score(directory):
    score_directory(directory)
    lines = [json.loads(line) for line in (directory / PREDICTIONS).read_text().splitlines()[1:]]
    assert [(line["parsed"], line["score"]) for line in lines] == [("cat", 1.0), ("2", 0.0), ("cat", 0.0), ("man", 1.0)]
    assert [line["raw"] for line in lines] == ["Cat.", "2", "cat", "man"]


def test_the_header_names_what_read_and_scored_the_answers(directory):
    score_directory(directory)
    header = json.loads((directory / PREDICTIONS).read_text().splitlines()[0])["header"]
    expected = {"task": "msrvtt_qa", "protocol": "exact_match", "owl2": __version__}
    assert header["parser"] == header["scorer"] == expected


def test_another_protocol_is_added_beside_the_first(directory):
    first = score_directory(directory, protocol="exact_match")
    assert list(first["protocols"]) == ["exact_match"]
    both = score_directory(directory, protocol="vqa_norm")
    assert (accuracy(both), accuracy(both, "vqa_norm")) == (2 / 4, 3 / 4)
    assert json.loads((directory / SCORES).read_text()) == both


def test_an_unknown_protocol_is_refused_with_those_that_there_are(directory):
    with pytest.raises(ValueError, match="no protocol 'fuzzy': choose among exact_match, vqa_norm, gpt_assisted"):
        score_directory(directory, protocol="fuzzy")


def test_missing_predictions_give_no_score_unless_partial_which_the_result_shows(directory):
    edit(directory, lambda lines: lines.pop(3))
    with pytest.raises(ValueError, match="msrvtt_qa are not those of the whole split: 3 of 4 .*--allow-partial"):
        score_directory(directory)
    assert not (directory / SCORES).exists()
    result = score_directory(directory, allow_partial=True)
    assert accuracy(result) == 2 / 3
    assert result["partial"] is True and (result["samples"], result["samples_of_split"]) == (3, 4)
    assert json.loads((directory / SCORES).read_text())["partial"] is True


def test_predictions_of_a_limited_run_are_scored_and_shown_as_partial(directory):
    edit(directory, lambda lines: lines[0]["header"].update(samples_of_split=9))
    assert score_directory(directory)["partial"] is True


def test_strange_ids_give_no_score_unless_partial(directory):
    edit(directory, lambda lines: lines[2].update(id="99"))
    with pytest.raises(ValueError, match="other ids than those"):
        score_directory(directory)


def test_duplicated_predictions_give_no_score(directory):
    edit(directory, lambda lines: lines.append(lines[2]))
    with pytest.raises(ValueError, match="1 ids occur more than once, such as '2'"):
        score_directory(directory)


def test_of_duplicated_predictions_the_first_counts_where_partial_ones_are_allowed_and_the_result_says_so(directory):
    whole = score_directory(directory)
    edit(directory, lambda lines: lines.append(lines[2] | {"raw": "something else"}))
    before = (directory / PREDICTIONS).read_bytes()
    result = score_directory(directory, allow_partial=True)
    assert accuracy(result) == accuracy(whole)
    assert (result["duplicated"], result["partial"], result["samples"]) == (1, True, whole["samples"])
    assert (directory / PREDICTIONS).read_bytes() == before  # nothing is lost


def test_results_of_another_number_of_samples_are_not_kept_beside_new_ones(directory):
    score_directory(directory)
    edit(directory, lambda lines: lines.pop(3))
    result = score_directory(directory, protocol="vqa_norm", allow_partial=True)
    assert list(result["protocols"]) == ["vqa_norm"]


def test_results_of_other_answers_are_not_kept_beside_new_ones(directory):
    score_directory(directory)
    edit(directory, lambda lines: lines[1].update(raw="dog"))
    result = score_directory(directory, protocol="vqa_norm")
    assert list(result["protocols"]) == ["vqa_norm"]


@pytest.mark.parametrize(
    ("number", "line", "problem"),
    [
        (0, '{"header": {"task": "msrvtt_qa"}}', "predictions.jsonl:1: not the header"),
        (0, "", "predictions.jsonl:1: not the header"),
        (2, '{"id": "2", "prompt": "sent"', "predictions.jsonl:3: not a prediction"),
        (2, '{"id": "2", "prompt": "sent", "raw": 7, "gold": "two", "details": {}}', "predictions.jsonl:3: .*raw"),
    ],
)
def test_a_broken_line_is_named(directory, number, line, problem):
    path = directory / PREDICTIONS
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=problem):
        score_directory(directory)


def test_predictions_of_nothing_give_no_score_even_partially(directory):
    edit(directory, lambda lines: lines.__delitem__(slice(1, None)))
    with pytest.raises(ValueError, match="predictions of msrvtt_qa has none"):
        score_directory(directory, allow_partial=True)


def test_predictions_in_another_encoding_are_named(directory):
    path = directory / PREDICTIONS
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(ValueError, match=r"predictions\.jsonl is not UTF-8"):
        score_directory(directory)


def test_a_file_in_the_place_of_a_run_is_refused(directory):
    with pytest.raises(ValueError, match="is not a directory: give that of a run"):
        task_directories(directory / PREDICTIONS)


def test_a_run_without_complete_predictions_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no complete predictions.*owl2 evaluate, which resumes"):
        task_directories(tmp_path)


def test_a_run_is_scored_by_its_directory_or_by_that_of_a_task(directory):
    assert task_directories(directory.parent) == task_directories(directory) == [directory]


def test_a_submission_of_a_task_without_a_server_is_refused(directory, tmp_path):
    with pytest.raises(ValueError, match="MSRVTT-QA has no submission to an evaluation server"):
        write_submission(directory, tmp_path / "out")


def test_a_submission_needs_the_whole_split(tmp_path, directory):
    edit(directory, lambda lines: lines[0]["header"].update(task="mmvet", samples_of_split=218))
    with pytest.raises(ValueError, match="4 of 218 samples: a submission needs all"):
        write_submission(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
