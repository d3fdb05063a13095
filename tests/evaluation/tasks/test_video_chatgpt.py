"""Predictions of other programs, in the forms that Video-ChatGPT writes and reads."""

import json
from pathlib import Path

import pytest

from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.tasks import task_named
from owl2.evaluation.tasks.video_chatgpt import import_predictions

WRITTEN = [
    {"id": "v1", "question": "who?", "answer": "man", "pred": "Man."},
    {"id": "v1", "question": "what?", "answer": "cat", "pred": "a dog"},
    {"id": 7, "question": "how many?", "answer": "two", "pred": "2"},
]
READ = [
    {"video_name": "v1", "Q": "who?", "A": "man", "pred": "Man."},
    {"video_name": "v1", "Q": "what?", "A": "cat", "pred": "a dog"},
    {"video_name": "7", "Q": "how many?", "A": "two", "pred": "2"},
]


@pytest.mark.parametrize("entries", [WRITTEN, READ])
@pytest.mark.parametrize("by_line", [False, True])
def test_either_form_is_scored_like_predictions_of_our_own(tmp_path, entries, by_line):
    path = tmp_path / "pred.json"
    path.write_text("\n".join(map(json.dumps, entries)) if by_line else json.dumps(entries, indent=1))
    directory = import_predictions(path, "msvd_qa", tmp_path / "run")
    result = score_directory(directory)
    assert result["protocols"]["exact_match"]["summary"] == {"accuracy": 1 / 3}
    assert result["protocols"]["vqa_norm"]["summary"] == {"accuracy": 2 / 3}
    assert (result["prompt"], result["samples"], result["samples_expected"]) == ("imported", 3, 13157)
    _, records = read_predictions(directory / PREDICTIONS)
    assert [record.id for record in records] == ["v1", "v1_1", "7"]
    items = task_named("msvd_qa").judged.items(
        records, "gpt_assisted", dict.fromkeys(("video_qa_system", "video_qa_user"), "{question}|{answer}|{prediction}")
    )
    assert [item.asks[0].messages[1]["content"] for item in items][1] == "what?|cat|a dog"


def test_a_record_without_a_prediction_is_named(tmp_path: Path):
    path = tmp_path / "pred.json"
    path.write_text(json.dumps([WRITTEN[0], {"id": "v2", "question": "who?", "answer": "man"}]))
    with pytest.raises(ValueError, match="pred.json, record 2: has no 'pred'"):
        import_predictions(path, "msvd_qa", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_tasks_and_full_runs_are_refused(tmp_path: Path):
    path = tmp_path / "pred.json"
    path.write_text(json.dumps(WRITTEN))
    with pytest.raises(ValueError, match="mmvet is not a benchmark of video question answering"):
        import_predictions(path, "mmvet", tmp_path / "run")
    import_predictions(path, "tgif_qa", tmp_path / "run")
    with pytest.raises(ValueError, match="holds predictions already"):
        import_predictions(path, "tgif_qa", tmp_path / "run")
