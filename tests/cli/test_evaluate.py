"""`owl2 evaluate` and `owl2 score` of a benchmark that needs a judge, as a person runs them."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from judge_server import JudgeServer, completion
from PIL import Image
from safetensors.torch import load_file, save
from typer.testing import Result

from owl2.evaluation.inference.predictor import Predictor
from owl2.evaluation.task import Decoding
from owl2.evaluation.tasks import mmvet

QUESTIONS = 5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """A judge that always says 0.7, to those who have a key; a random model's answers are kept short."""
    running = JudgeServer()
    running.answer = lambda number, body: completion("0.7")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("OPENAI_BASE_URL", running.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(mmvet, "TASK", replace(mmvet.TASK, decoding={"": Decoding(max_new_tokens=4)}))
    yield running
    running.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "mmvet"
    (folder / "images").mkdir(parents=True)
    entries = {}
    for number in range(QUESTIONS):
        Image.new("RGB", (14, 10), (50 * number, 0, 99)).save(folder / "images" / f"{number}.png")
        question = {"imagename": f"{number}.png", "question": f"Number {number}?", "answer": "a<OR>b"}
        entries[f"v1_{number}"] = {**question, "capability": ["rec"], "imagesource": "made"}
    (folder / "mm-vet.json").write_text(json.dumps(entries))
    return tmp_path / "data"


@pytest.fixture
def arguments(ours: Path, data: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("evaluate", "--model", ours, "--tasks", "mmvet", "--data", data, "--out", tmp_path / "run")


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_a_judged_benchmark_goes_from_files_to_a_score_that_a_replay_repeats(
    owl2: Callable[..., Result], arguments, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    shown = lines(owl2(*arguments))
    assert "MM-Vet (test, 5 of 5 samples)" in shown and "mmvet_official total 0.7000" in shown
    assert "mmvet_official deviation 0.0000" in shown
    assert "mmvet_official judge gpt-4-0613, our own prompts, failures [{}, {}, {}, {}, {}]" in shown
    assert len(server.requests) == QUESTIONS * 5
    monkeypatch.delenv("OPENAI_API_KEY")
    assert set(lines(owl2("score", tmp_path / "run", "--judge-replay"))) <= set(shown)
    assert "mmvet_official total 0.7000" in lines(owl2("score", tmp_path / "run" / "mmvet", "--judge-replay"))
    assert len(server.requests) == QUESTIONS * 5
    scores = json.loads((tmp_path / "run" / "mmvet" / "scores.json").read_text())
    assert scores["protocols"]["mmvet_official"]["judged_by"]["served_by"] == [{"the-model-2024": 5}] * 5


def test_sigterm_ends_it_after_the_batch_in_progress_and_the_same_command_goes_on(
    owl2: Callable[..., Result], arguments, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    batches, original = [], Predictor.predict

    def stopped_in_the_second(self, batch):
        batches.append(len(batch))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(Predictor, "predict", stopped_in_the_second)
    result = owl2(*arguments, "--batch-size", 2)
    assert result.exit_code == 130 and batches == [2, 2]
    assert "owl2: stopped after 4 of 5 samples of MM-Vet, which are saved; the same command resumes" in result.stderr
    assert "mmvet_official total 0.7000" in lines(owl2(*arguments, "--batch-size", 2))
    assert batches == [2, 2, 1]


def test_without_a_key_nothing_is_generated(refused: Callable[..., str], arguments, server, tmp_path):
    assert "set the variable OPENAI_API_KEY" in refused(*arguments)
    assert not (tmp_path / "run").exists()


def test_predictions_can_be_judged_later_and_unjudged_ones_are_said_to_have_no_score(
    owl2: Callable[..., Result], arguments, server, tmp_path, monkeypatch
):
    assert "total" not in owl2(*arguments, "--no-judge").stdout
    assert any(
        "not scored: every protocol needs a judge (--judge)" in line for line in lines(owl2("score", tmp_path / "run"))
    )
    assert server.requests == []
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    shown = lines(owl2("score", tmp_path / "run", "--judge-runs", 2, "--judge-model", "local"))
    assert "mmvet_official judge local, our own prompts, failures [{}, {}]" in shown
    assert len(server.requests) == QUESTIONS * 2


def test_lost_predictions_are_scored_only_when_asked_to_and_shown(
    owl2: Callable[..., Result], refused: Callable[..., str], arguments, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    lines(owl2(*arguments))
    path = tmp_path / "run" / "mmvet" / "predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "4 of 5 samples" in refused("score", tmp_path / "run", "--judge")
    shown = lines(owl2("score", tmp_path / "run", "--judge", "--allow-partial"))
    assert "MM-Vet (test, 4 of 5 samples, PARTIAL)" in shown


def test_the_submission_is_written_from_the_run(owl2: Callable[..., Result], arguments, server, tmp_path):
    owl2(*arguments, "--no-judge")
    shown = lines(owl2("score", tmp_path / "run", "--submission", tmp_path / "out"))
    assert shown == [str(tmp_path / "out" / "mmvet.json")]
    assert list(json.loads((tmp_path / "out" / "mmvet.json").read_text())) == [f"v1_{n}" for n in range(QUESTIONS)]


def test_tasks_of_a_run_that_cannot_be_scored_or_submitted_are_passed_over_and_named(
    owl2: Callable[..., Result], refused: Callable[..., str], arguments, server, data, tmp_path
):
    (data / "arc").mkdir()
    choices = [{"text": text, "label": label} for text, label in zip(("ice", "fog", "sun", "sky"), "ABCD", strict=True)]
    row = {"id": "q1", "question": {"stem": "What is cold?", "choices": choices}, "answerKey": "A"}
    (data / "arc" / "ARC-Easy-Dev.jsonl").write_text(json.dumps(row) + "\n")
    lines(owl2(*arguments[:4], "mmvet,arc_easy", *arguments[5:], "--no-judge"))
    shown = lines(owl2("score", tmp_path / "run", "--submission", tmp_path / "out"))
    assert shown == [
        str(tmp_path / "out" / "mmvet.json"),
        "arc_easy passed over: ARC-Easy has no submission to an evaluation server",
    ]
    shown = lines(owl2("score", tmp_path / "run", "--protocol", "oc_ppl_letter"))
    assert any(line.startswith("oc_ppl_letter accuracy") for line in shown)
    assert "NOT COMPARABLE: the official split has 570 samples" in shown
    assert "mmvet passed over: does not support the protocol oc_ppl_letter" in shown
    message = refused("score", tmp_path / "run", "--protocol", "fuzzy")
    assert "'fuzzy'. arc_easy: oc_ppl_letter; mmvet: mmvet_official" in message


def write_vizwiz(data: Path) -> None:
    (data / "vizwiz" / "Annotations").mkdir(parents=True)
    (data / "vizwiz" / "val").mkdir()
    Image.new("RGB", (14, 10), "red").save(data / "vizwiz" / "val" / "a.jpg")
    row = {"image": "a.jpg", "question": "what?", "answer_type": "other", "answerable": 1}
    row["answers"] = [{"answer": "cat", "answer_confidence": "yes"}] * 10
    (data / "vizwiz" / "Annotations" / "val.json").write_text(json.dumps([row]))


def test_a_split_with_public_answers_is_not_submitted_and_named(
    owl2: Callable[..., Result], refused: Callable[..., str], arguments, server, data, tmp_path
):
    write_vizwiz(data)
    lines(owl2(*arguments[:4], "mmvet,vizwiz", *arguments[5:], "--no-judge"))
    reason = "VizWiz: these are predictions of a split with public answers, val: a server takes those of test"
    result = owl2("score", tmp_path / "run", "--submission", tmp_path / "out")
    assert lines(result) == [str(tmp_path / "out" / "mmvet.json"), f"vizwiz passed over: {reason}"]
    assert "owl2: NOT COMPARABLE: the official split has 218 samples" in result.stderr
    assert reason in refused("score", tmp_path / "run" / "vizwiz", "--submission", tmp_path / "out")


def test_prompts_are_sent_raw_when_asked_to_and_every_result_shows_it(
    owl2: Callable[..., Result], refused: Callable[..., str], arguments, server, data, tmp_path
):
    write_vizwiz(data)
    asked = (*arguments[:4], "vizwiz", *arguments[5:])
    assert "VizWiz (val, 1 of 1 samples, raw)" in lines(owl2(*asked, "--prompt-format", "raw"))
    assert "VizWiz (val, 1 of 1 samples, raw)" in lines(owl2("score", tmp_path / "run"))
    lines(owl2("report", tmp_path / "run"))
    assert "without the chat template" in (tmp_path / "run" / "report.md").read_text()
    assert "another setting: prompt_format is 'raw' there and 'chat' now" in refused(*asked)
    assert "the prompt format is chat or raw, not 'no'" in refused(*asked, "--prompt-format", "no")


def test_a_split_of_another_size_than_the_official_one_is_warned_of_before_the_model_is_loaded(
    owl2: Callable[..., Result], arguments, server, tmp_path
):
    (tmp_path / "no-model").mkdir()
    result = owl2(*arguments[:2], tmp_path / "no-model", *arguments[3:], "--no-judge")
    assert result.exit_code == 2
    first = result.stderr.splitlines()[0]
    assert first == "owl2: MM-Vet (test): NOT COMPARABLE: the official split has 218 samples, these files have 5"


@pytest.mark.parametrize("tasks", [",", "mmvet,mmvet"])
def test_no_task_and_a_task_twice_are_refused(refused: Callable[..., str], arguments, server, tasks, tmp_path):
    assert "expected one task or more, each once" in refused(*arguments[:4], tasks, *arguments[5:], "--no-judge")
    assert not (tmp_path / "run").exists()


def test_the_check_of_the_data_says_how_many_samples_there_are(owl2: Callable[..., Result], data):
    result = owl2("evaluate", "--check", data)
    shown = lines(result)
    assert "mmvet test has 5 samples where 218 are expected" in shown
    assert "pope coco absent" in shown and "easy_vqa test complete, 9673 samples" in shown
    assert "scenes_easy test complete" in shown, "generated samples are not made to be counted"
    assert result.stderr == "owl2: not complete: mmvet (test)\n"


def test_the_check_of_named_benchmarks_fails_unless_they_are_complete(
    owl2: Callable[..., Result], refused: Callable[..., str], data
):
    shown = owl2("evaluate", "--check", data, "--tasks", "mmvet,easy_vqa,pope")
    assert shown.exit_code == 1 and len([line for line in shown.stdout.splitlines() if line[0] != " "]) == 3
    assert shown.stderr == "owl2: not complete: mmvet (test), pope (coco)\n"
    assert lines(owl2("evaluate", "--check", data, "--tasks", "easy_vqa")) == ["easy_vqa test complete, 9673 samples"]
    shown = lines(owl2("evaluate", "--check", data, "--tasks", "easy_vqa", "--split", "train"))
    assert shown == ["easy_vqa train complete, 38575 samples"]
    assert "--split belongs to one task" in refused("evaluate", "--check", data, "--split", "train")


def test_the_check_finds_files_without_samples_and_with_one_twice(owl2: Callable[..., Result], data):
    write_vizwiz(data)
    file = data / "vizwiz" / "Annotations" / "val.json"
    (row,) = json.loads(file.read_text())
    for rows, problem in (([], "VizWiz has no samples in its files"), ([row, row], "two samples of the id 'a.jpg'")):
        file.write_text(json.dumps(rows))
        result = owl2("evaluate", "--check", data, "--tasks", "vizwiz")
        assert result.exit_code == 1 and problem in result.stdout


def test_a_run_does_not_go_on_with_other_weights_of_the_same_name_and_size(
    owl2: Callable[..., Result], refused: Callable[..., str], arguments, server, editable, tmp_path
):
    with_model = ("evaluate", "--model", editable, *arguments[3:], "--no-judge")
    lines(owl2(*with_model))
    (weights,) = editable.glob("*.safetensors")
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("lm_head.weight"))
    weights.write_bytes(save(tensors | {name: -tensors[name]}, {"format": "pt"}))
    assert "holds predictions of another setting: model.weights is" in refused(*with_model)


def test_a_run_does_not_go_on_with_images_prepared_otherwise(
    owl2: Callable[..., Result], refused: Callable[..., str], arguments, server, editable, tmp_path
):
    with_model = ("evaluate", "--model", editable, *arguments[3:], "--no-judge")
    lines(owl2(*with_model))
    path = editable / "processor_config.json"
    assert '"aspect": "resize"' in path.read_text()
    path.write_text(path.read_text().replace('"aspect": "resize"', '"aspect": "pad"'))
    assert "holds predictions of another setting: model.processing is" in refused(*with_model)
