"""MM-Vet from its files to the scores of five runs of a judge, and what goes wrong on the way."""

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from PIL import Image

from owl2.evaluation.evaluate import evaluate
from owl2.evaluation.judge.judge import Judge, JudgeCacheMiss
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, ids_hash, read_predictions, write_predictions
from owl2.evaluation.results import scoring
from owl2.evaluation.results.scoring import JudgeSettings, score_directory, write_submission
from owl2.evaluation.task import Decoding, Prediction
from owl2.evaluation.tasks import mmvet

CAPABILITIES = [["ocr", "rec"], ["rec"], ["math", "ocr", "spat"], ["gen", "know", "rec"], ["rec"]]
GOLDS = ["two<AND>red", "a cat<OR>a kitten", "4", "It is a joke about cats.", "no"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten questions in the official form."""
    root = tmp_path / "data"
    (root / "mmvet" / "images").mkdir(parents=True)
    entries = {}
    for number in range(10):
        image = f"v1_{number}.png"
        Image.new("RGB", (12 + number, 10), (25 * number, 90, 40)).save(root / "mmvet" / "images" / image)
        entries[f"v1_{number}"] = {
            "imagename": image,
            "question": f"What is in picture {number}?",
            "answer": GOLDS[number % 5],
            "capability": CAPABILITIES[number % 5],
            "imagesource": "made",
        }
    (root / "mmvet" / "mm-vet.json").write_text(json.dumps(entries))
    return root


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends an answer."""
    monkeypatch.setattr(mmvet, "TASK", replace(mmvet.TASK, decoding={"": Decoding(max_new_tokens=6)}))


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeSettings:
    """The server as a judge that is tried twice, without waiting in between."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(scoring, "Judge", partial(Judge, max_retries=1, wait=lambda seconds: None))
    return JudgeSettings(tmp_path / "cache", base_url=server.url)


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """Hand-written predictions of three questions."""
    records = [
        _record("v1_0", "two<AND>red", "two", ["rec", "ocr"]),
        _record("v1_1", "a cat", "a dog", ["rec"]),
        _record("v1_2", "4", "four", ["ocr", "spat", "math"]),
    ]
    directory = tmp_path / "run" / "mmvet"
    directory.mkdir(parents=True)
    header = {
        "task": "mmvet",
        "split": "test",
        "prompt": "question",
        "samples": 3,
        "samples_of_split": 3,
        "samples_expected": 218,
        "ids_sha256": ids_hash(record.id for record in records),
    }
    write_predictions(directory / PREDICTIONS, header, records, None)
    return directory


def _record(name: str, gold: str, answer: str, capability: list[str]) -> Prediction:
    return Prediction(name, "sent", answer, gold, {"question": f"{name}?", "capability": capability})


def replies(by_question: dict[str, list[str]]) -> Callable[[int, dict[str, Any]], bytes]:
    """Gives each question its replies, one after the other; the last one again and again."""
    asked: Counter[str] = Counter()

    def answer(number: int, body: dict[str, Any]) -> bytes:
        text = body["messages"][0]["content"].removesuffix("Predict the correctness of the answer (digit): ")
        question = text.rstrip("\n").splitlines()[-1].split(" | ")[0]
        given = by_question[question]
        asked[question] += 1
        return completion(given[min(asked[question], len(given)) - 1])

    return answer


def test_files_give_scores_of_five_runs_through_a_model(data, predicted, short_answers, server, judge):
    server.answer = lambda number, body: completion("0.5")
    directory = predicted("mmvet", data)
    result = score_directory(directory, judge=judge)
    entry = result["protocols"]["mmvet_official"]
    assert entry["summary"]["total"] == 0.5 and entry["summary"]["deviation"] == 0.0
    assert entry["summary"]["capabilities"] == dict.fromkeys(("rec", "ocr", "know", "gen", "spat", "math"), 0.5)
    assert list(entry["summary"]["combinations"]) == ["rec_ocr", "rec", "ocr_spat_math", "rec_know_gen"]
    assert entry["judged_by"]["judge"] == "gpt-4-0613" and entry["judged_by"]["runs"] == 5
    assert len(server.requests) == 10 * 5
    header, records = read_predictions(directory / PREDICTIONS)
    assert records[3].prompt == "USER: <|image|>What is in picture 3? ASSISTANT: "
    assert (result["samples_expected"], header["samples"], header["decoding"]["greedy"]) == (218, 10, True)
    sent = [request["messages"][0]["content"] for request in server.requests]
    assert sum("\nWhat is in picture 0? | two <AND> red | " in text for text in sent) == 5


def test_means_and_deviations_over_runs_are_those_worked_out_by_hand(answered, server, judge):
    server.answer = replies(
        {
            "v1_0?": ["0.5", "0.5", "0.7", "0.5", "0.3"],
            "v1_1?": ["0.0", "0.3", "0.0", "0.0", "0.0"],
            "v1_2?": ["1.0", "1.0", "1.0", "0.7", "1.0"],
        }
    )
    summary = score_directory(answered, judge=judge)["protocols"]["mmvet_official"]["summary"]
    totals = [1.5 / 3, 1.8 / 3, 1.7 / 3, 1.2 / 3, 1.3 / 3]
    assert summary["total"] == pytest.approx(0.5)
    assert summary["deviation"] == pytest.approx(statistics.pstdev(totals))
    assert summary["capabilities"] == pytest.approx({"rec": 0.28, "ocr": 0.72, "spat": 0.94, "math": 0.94})
    assert summary["combinations"] == pytest.approx({"rec_ocr": 0.5, "rec": 0.06, "ocr_spat_math": 0.94})
    recognition = [0.25, 0.4, 0.35, 0.25, 0.15]
    assert summary["capabilities_deviations"]["rec"] == pytest.approx(statistics.pstdev(recognition))
    lines = [json.loads(line) for line in (answered / PREDICTIONS).read_text().splitlines()]
    assert lines[2]["parsed"] == [0.0, 0.3, 0.0, 0.0, 0.0] and lines[2]["score"] == pytest.approx(0.06)


def test_a_reply_without_a_number_is_asked_for_again_and_counted(answered, server, judge):
    server.answer = replies({"v1_0?": ["well", "0.5"], "v1_1?": ["bad"], "v1_2?": ["1.0"]})
    entry = score_directory(answered, judge=replace(judge, runs=1))["protocols"]["mmvet_official"]
    assert entry["summary"]["total"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert entry["judged_by"]["failures"] == [{"unparsed": 1}]
    assert entry["judged_by"]["failed_attempts"] == [{"unparsed": 1 + 5}]


def test_a_judge_that_is_silent_or_broken_gives_no_score_unless_partial_which_shows(
    answered, server, judge, monkeypatch
):
    monkeypatch.setattr(scoring, "Judge", partial(Judge, timeout=1.5, max_retries=0))

    def answer(number: int, body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        return "silence" if "\nv1_1? |" in text else (500, {}) if "\nv1_2? |" in text else completion("0.5")

    server.answer = answer
    once = replace(judge, runs=1)
    with pytest.raises(ValueError, match="not answered for 2 of 3 items.*'http_500': 1.*'timeout': 1"):
        score_directory(answered, judge=once)
    entry = score_directory(answered, allow_partial=True, judge=once)["protocols"]["mmvet_official"]
    assert entry["summary"]["total"] == 0.5 and entry["summary"]["combinations"] == {"rec_ocr": 0.5}
    assert entry["judged_by"]["failures"] == [{"http_500": 1, "timeout": 1}]
    server.answer = lambda number, body: (500, {})
    with pytest.raises(ValueError, match="none of 3 answers"):
        score_directory(answered, allow_partial=True, judge=replace(once, model="another"))


def test_a_malformed_answer_is_tried_again(answered, server, judge):
    server.answer = lambda number, body: b"<html>" if number == 0 else completion("0.5")
    entry = score_directory(answered, judge=replace(judge, runs=1, concurrency=1))["protocols"]["mmvet_official"]
    assert entry["summary"]["total"] == 0.5 and entry["judged_by"]["failures"] == [{}]
    assert entry["judged_by"]["failed_attempts"] == [{"malformed": 1}]


def test_a_replay_gives_the_same_without_network_or_key(answered, server, judge, monkeypatch):
    server.answer = lambda number, body: completion(f"0.{number % 10}")
    before = score_directory(answered, judge=judge)["protocols"]["mmvet_official"]
    sent = len(server.requests)
    monkeypatch.delenv("OPENAI_API_KEY")
    replay = JudgeSettings(judge.cache, replay=True)
    again = score_directory(answered, judge=replay)["protocols"]["mmvet_official"]
    assert again == before and len(server.requests) == sent == 15
    next(judge.cache.rglob("*.json")).unlink()
    with pytest.raises(JudgeCacheMiss, match="replay lacks replies for 1 of 3 items"):
        score_directory(answered, judge=replay)


def test_a_judge_without_a_key_stops_before_anything_is_read_and_names_the_variable(server, tmp_path):
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        evaluate("no-model", ["mmvet"], Settings(tmp_path / "no-data", tmp_path / "run"))
    assert not (tmp_path / "run").exists() and server.requests == []


def test_the_official_prompt_takes_the_place_of_ours_and_the_result_says_which_it_was(
    answered, server, judge, tmp_path
):
    server.answer = lambda number, body: completion("0.5")
    once = replace(judge, runs=1)
    ours = score_directory(answered, judge=once)["protocols"]["mmvet_official"]["judged_by"]["prompts"]["mmvet"]
    assert ours["own_words"] is True
    (tmp_path / "official").mkdir()
    (tmp_path / "official" / "mmvet.txt").write_text("Question | Truth\n")
    given = replace(once, prompts=tmp_path / "official")
    result = score_directory(answered, judge=given)["protocols"]["mmvet_official"]["judged_by"]["prompts"]["mmvet"]
    assert result == {"sha256": hashlib.sha256(b"Question | Truth").hexdigest(), "own_words": False}
    sent = [request["messages"][0]["content"] for request in server.requests[3:]]
    assert sorted(sent)[0] == "Question | Truth\nv1_0? | two <AND> red | two | "
    with pytest.raises(ValueError, match="nowhere, which is not a directory"):
        settings = replace(given, prompts=tmp_path / "nowhere")
        evaluate("no-model", ["mmvet"], Settings(tmp_path / "no-data", tmp_path / "out"), settings)


def test_scores_without_a_judge_are_refused(answered):
    with pytest.raises(ValueError, match="needs a judge: pass --judge"):
        score_directory(answered, protocol="mmvet_official")


def test_the_prompts_are_the_question_verbatim_or_with_the_direct_line(data):
    for prompt, ending in (("question", ""), ("direct", "\nAnswer the question directly. ")):
        samples = mmvet.TASK.load(data, "test", prompt)
        assert [sample.prompt for sample in samples] == [f"What is in picture {n}?{ending}" for n in range(10)]
    assert [sample.id for sample in samples] == [f"v1_{n}" for n in range(10)]
    assert mmvet.TASK.decoding_of("question").max_new_tokens == 512


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"capability": ["rec", "smell"]}, "'capability'.*'smell'"),
        ({"capability": []}, "'capability'"),
        ({"question": None}, "'question'"),
        ({"imagename": "../secret.png"}, "secret.png"),
    ],
)
def test_a_broken_record_names_file_and_record(data, tmp_path, change, problem):
    path = data / "mmvet" / "mm-vet.json"
    entries = json.loads(path.read_text())
    entries["v1_3"] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=rf"mm-vet.json, record 4 \('v1_3'\): .*{problem}"):
        plan_task(mmvet.TASK, Settings(data, tmp_path / "run"), {})


def test_a_missing_image_stops_before_generation(data, tmp_path):
    (data / "mmvet" / "images" / "v1_7.png").unlink()
    with pytest.raises(ValueError, match="1 of 10 images or videos are missing, first .*v1_7.png"):
        plan_task(mmvet.TASK, Settings(data, tmp_path / "run"), {})


def test_the_submission_is_a_dictionary_of_answers_by_id(answered, tmp_path):
    path = write_submission(answered, tmp_path / "out")
    assert json.loads(path.read_text()) == {"v1_0": "two", "v1_1": "a dog", "v1_2": "four"}
