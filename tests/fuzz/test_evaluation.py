"""Files of benchmarks, predictions and answers are refused by name; what a judge says never raises anything else."""

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.conftest import Fuzz
from fuzz.inputs import changed_bytes, changed_json, values
from hypothesis import strategies as st
from PIL import Image

from owl2.evaluation.judge import endpoint
from owl2.evaluation.metrics.judged import mmhal_ratings, mmvet_score, video_judge_reply
from owl2.evaluation.other_answers import read_answers
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import header_line, line_of, read_predictions
from owl2.evaluation.task import Prediction
from owl2.evaluation.tasks import task_named
from owl2.processing import load_image

POPE = [{"question_id": 1, "image": "a.png", "text": "Is there a dog?", "label": "yes"}] * 1
ANSWERS = [{"question_id": 1, "text": "yes", "image": "a.png"}, {"question_id": 2, "text": "no"}]


def pope(root: Path) -> dict[str, Any]:
    (root / "coco" / "val2014").mkdir(parents=True)
    shutil.copy(root / "a.png", root / "coco" / "val2014" / "a.png")
    return {f"pope/coco_pope_{subset}.json": POPE for subset in ("random", "popular", "adversarial")}


def vqav2(root: Path) -> dict[str, Any]:
    (root / "coco" / "val2014").mkdir(parents=True)
    shutil.copy(root / "a.png", root / "coco" / "val2014" / "COCO_val2014_000000000001.jpg")
    question = {"image_id": 1, "question": "What?", "question_id": 10}
    answers = [{"answer": "yes", "answer_confidence": "yes", "answer_id": number} for number in range(1, 11)]
    annotation = {"question_id": 10, "image_id": 1, "question_type": "is", "answer_type": "yes/no", "answers": answers}
    annotation["multiple_choice_answer"] = "yes"
    return {
        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json": {"data_subtype": "val2014", "questions": [question]},
        "vqav2/v2_mscoco_val2014_annotations.json": {"data_subtype": "val2014", "annotations": [annotation]},
    }


def seed(root: Path) -> dict[str, Any]:
    (root / "seed" / "SEED-Bench-image").mkdir(parents=True)
    shutil.copy(root / "a.png", root / "seed" / "SEED-Bench-image" / "1_2")
    choices = {f"choice_{letter}": letter for letter in "abcd"}
    ids = {"question_id": "1", "data_id": "1_2", "data_type": "image", "question_type_id": 1}
    question = {**ids, **choices, "question": "What?", "answer": "A"}
    return {"seed/SEED-Bench.json": {"questions": [question], "question_type": {"Scene Understanding": 1}}}


def mmbench(root: Path) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]
    picture = base64.b64encode(buffer.getvalue()).decode()
    row = ["1", "What?", "", "one", "two", "", "", "A", "kind", picture, "group", "dev"]
    return {"mmbench/mmbench_dev_20230712.tsv": "\n".join(["\t".join(columns), "\t".join(row), ""])}


def arc_challenge(root: Path) -> dict[str, Any]:
    choices = [{"label": letter, "text": f"thing {letter}"} for letter in "ABCD"]
    question = {"id": "Q1", "question": {"stem": "What?", "choices": choices}, "answerKey": "A"}
    return {f"arc/ARC-Challenge-{split}.jsonl": [question] for split in ("Dev", "Test")}


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    task.__name__: task for task in (pope, vqav2, seed, mmbench, arc_challenge)
}
SPLITS = {"vqav2": "val", "seed": "image", "mmbench": "dev"}


def changed(contents: Any, name: str) -> st.SearchStrategy[bytes]:
    if isinstance(contents, str):
        return changed_bytes([contents.encode()])
    return changed_json(contents, lines=isinstance(contents, list))


def written(contents: Any) -> bytes:
    if isinstance(contents, str):
        return contents.encode()
    rows = contents if isinstance(contents, list) else [contents]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("name", TASKS)
def test_a_benchmark(name: str, fuzz: Fuzz, inside: Path, tmp_path: Path) -> None:
    originals = TASKS[name](inside)
    task, settings = task_named(name), Settings(inside, tmp_path / "out", SPLITS.get(name))

    def read() -> None:
        for sample in plan_task(task, settings, {}).samples:
            for image in sample.images:
                load_image(image() if callable(image) else image)

    for file, contents in originals.items():
        (inside / file).parent.mkdir(parents=True, exist_ok=True)
        (inside / file).write_bytes(written(contents))
    read()  # as they are, the files are right

    def check(file: str, contents: bytes) -> None:
        (inside / file).write_bytes(contents)
        try:
            read()
        finally:
            (inside / file).write_bytes(written(originals[file]))

    for file, contents in originals.items():
        fuzz(changed(contents, file), lambda found, file=file: check(file, found), 40 // len(originals))


def test_predictions(fuzz: Fuzz, inside: Path) -> None:
    header = {"task": "pope", "samples": 1, "prompt": "", "split": "all"}
    line = line_of(Prediction("1", "What?", "yes", "yes", {"a": 1}), "yes", 1.0)

    def check(contents: bytes) -> None:
        (inside / "p.jsonl").write_bytes(contents)
        read_predictions(inside / "p.jsonl")

    whole = [json.loads(header_line(header)), json.loads(line), json.loads(line)]
    fuzz(changed_json(whole, lines=True), check, 80, "p.jsonl")


def test_answers(fuzz: Fuzz, inside: Path) -> None:
    def check(contents: bytes) -> None:
        (inside / "a.jsonl").write_bytes(contents)
        assert all(isinstance(answer, str) for answer in read_answers(inside / "a.jsonl").values())

    fuzz(changed_json(ANSWERS, lines=True) | changed_json(ANSWERS), check, 80, "a.jsonl")


def test_what_a_judge_says(fuzz: Fuzz) -> None:
    words = (
        "0.5",
        "1e999",
        "nan",
        "Rating: ",
        "rating: 3",
        "{'pred': 'yes', 'score': 4}",
        "{'pred': ",
        "(" * 300,
        "-" * 9999,
    )
    pieces = st.sampled_from(
        (*words, "'score': ", "9" * 5000, "[" * 5000, "\0", "\ud83d", " ", "\n", "{'score': 1e999}")
    )
    replies = st.lists(pieces | st.text(max_size=8), max_size=6).map("".join)

    def check(reply: str) -> None:
        score = mmvet_score(reply)
        assert score is None or 0 <= score <= 1
        assert set(mmhal_ratings(reply)) <= set(range(7))
        video_judge_reply(reply)

    fuzz(replies, check, 150)


def test_what_the_server_of_a_judge_sends(fuzz: Fuzz) -> None:
    reply = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "0.5"}}]}

    def check(body: bytes) -> None:
        try:
            assert isinstance(endpoint._reply(body).text, str)
        except endpoint.JudgeFailure as failure:
            assert str(failure)

    fuzz(changed_json(reply) | values.map(lambda value: json.dumps(value).encode()), check, 80)
