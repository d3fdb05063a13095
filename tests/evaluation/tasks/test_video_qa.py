"""MSRVTT-QA, MSVD-QA and TGIF-QA from their files to exact match and to a judge's verdicts."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from PIL import Image

from owl2.evaluation.evaluate import evaluate
from owl2.evaluation.inference import predictor
from owl2.evaluation.judge.judge import Judge, JudgeCacheMiss
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, ids_hash, read_predictions, write_predictions
from owl2.evaluation.results import scoring
from owl2.evaluation.results.scoring import JudgeSettings, score_directory
from owl2.evaluation.task import Prediction
from owl2.evaluation.tasks import task_named
from owl2.processing import load_video

CODECS = {".mp4": "mpeg4", ".avi": "mpeg4"}
QUESTIONS = [("what is cut?", "onion"), ("who cuts it?", "man"), ("how many cats run?", "two"), ("what runs?", "cat")]


def write_video(path: Path, frames: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("RGB", (32, 16), (20 * index, 90, 10)) for index in range(frames)]
    if path.suffix == ".gif":
        images[0].save(path, save_all=True, append_images=images[1:])
        return
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def ten() -> list[tuple[int, str, str]]:
    """Number of the video (three of them), question, answer."""
    return [(number // 4, *QUESTIONS[number % 4]) for number in range(10)]


def msrvtt(root: Path) -> None:
    folder = root / "msrvtt_qa"
    asked = [
        {"id": 158581 + index, "video_id": 7010 + video, "question": question, "answer": answer, "category_id": video}
        for index, (video, question, answer) in enumerate(ten())
    ]
    for video in range(3):
        write_video(folder / "videos" / f"video{7010 + video}.mp4")
    (folder / "test_qa.json").write_text(json.dumps(asked))


def msvd(root: Path) -> None:
    folder = root / "msvd_qa"
    asked = [
        {"id": index, "video_id": 1301 + video, "question": question, "answer": answer}
        for index, (video, question, answer) in enumerate(ten())
    ]
    for video in range(3):
        write_video(folder / "videos" / f"-clip.{video}_5_15.avi")
    (folder / "test_qa.json").write_text(json.dumps(asked))
    lines = [f"-clip.{video}_5_15 vid{1301 + video}" for video in (2, 0, 1)]
    (folder / "youtube_mapping.txt").write_text("\n".join([*lines, "unused_1_2 vid1", ""]))


def tgif(root: Path) -> None:
    folder = root / "tgif_qa"
    lines = ["gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription"]
    for index, (video, question, answer) in enumerate(ten()):
        lines.append(f"tumblr_{video}_400\t{question}\t{answer}\t{index % 4}\tFRAMEQA{50 - index}\t7\tso it is .")
    for video in range(3):
        write_video(folder / "videos" / f"tumblr_{video}_400.gif")
    (folder / "Test_frameqa_question.csv").write_text("\n".join(lines) + "\n")


def repackaged(root: Path, name: str) -> None:
    """The form of Video-ChatGPT, answers in another order than questions."""
    folder = root / name
    questions, answers = [], []
    for index, (video, question, answer) in enumerate(ten()):
        questions.append({"video_name": f"v_{video}", "question": question, "question_id": f"v_{video}_{index}"})
        answers.append({"answer": answer, "type": 3, "question_id": f"v_{video}_{index}"})
    for video in range(3):
        write_video(folder / "videos" / f"v_{video}.mp4")
    (folder / "test_q.json").write_text(json.dumps(questions))
    (folder / "test_a.json").write_text(json.dumps(answers[::-1]))


FORMS = {
    "msrvtt_qa": (msrvtt, "test_qa.json"),
    "msvd_qa": (msvd, "test_qa.json"),
    "tgif_qa": (tgif, "Test_frameqa_question.csv"),
}


@pytest.fixture
def judge(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeSettings:
    """The server as a judge that is tried twice, without waiting in between."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(scoring, "Judge", partial(Judge, max_retries=1, wait=lambda seconds: None))
    return JudgeSettings(tmp_path / "cache", base_url=server.url)


@pytest.fixture
def answered(tmp_path: Path) -> Callable[..., Path]:
    """Writes predictions of MSVD-QA by hand: gold and answer of each question."""

    def write(*pairs: tuple[str, str]) -> Path:
        records = [
            Prediction(str(number), "sent", answer, gold, {"question": f"question {number}?", "video": "v"})
            for number, (gold, answer) in enumerate(pairs)
        ]
        header = {
            "task": "msvd_qa",
            "split": "test",
            "prompt": "question",
            "samples": len(records),
            "samples_of_split": len(records),
            "samples_expected": 13157,
            "ids_sha256": ids_hash(record.id for record in records),
        }
        directory = tmp_path / "run" / "msvd_qa"
        directory.mkdir(parents=True)
        write_predictions(directory / PREDICTIONS, header, records, None)
        return directory

    return write


def says(server: JudgeServer, replies: Sequence[Any]) -> None:
    """The judge's reply to each question, by its number: always the same."""

    def answer(number: int, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        (own,) = (index for index in range(len(replies)) if f"Question: question {index}?\n" in text)
        is_text = isinstance(replies[own], str) and replies[own] != "hang up"
        return completion(replies[own]) if is_text else replies[own]

    server.answer = answer


@pytest.mark.parametrize("name", list(FORMS))
def test_original_files_give_scores_through_a_model(name, tmp_path, predicted, server, judge):
    FORMS[name][0](tmp_path / "data")
    server.answer = lambda number, body: completion("{'pred': 'yes', 'score': 4}")
    directory = predicted(name, tmp_path / "data")
    result = score_directory(directory, judge=judge)
    header, records = read_predictions(directory / PREDICTIONS)
    assert [(record.details["question"], record.gold) for record in records] == [entry[1:] for entry in ten()]
    assert header["frames"] == [8] and len({record.id for record in records}) == 10
    instruction = "Answer the question using a single word or phrase."
    assert records[0].prompt == "USER: " + "<|image|>" * 8 + f"what is cut?\n{instruction} ASSISTANT: "
    assert list(result["protocols"]) == ["exact_match", "vqa_norm", "gpt_assisted"]
    assert 0 <= result["protocols"]["exact_match"]["summary"]["accuracy"] <= 1
    assert result["protocols"]["gpt_assisted"]["summary"] == pytest.approx(
        {"accuracy": 1.0, "score": 4.0, "yes": 10, "no": 0, "neither": 0}
    )
    assert result["protocols"]["gpt_assisted"]["judged_by"]["judge"] == "gpt-3.5-turbo"


@pytest.mark.parametrize("name", list(FORMS))
def test_repackaged_files_are_joined_by_question_id_and_ask_the_question_alone(name, tmp_path):
    repackaged(tmp_path, name)
    task = task_named(name)
    samples = plan_task(task, Settings(tmp_path, tmp_path / "run", prompt="question"), {}).samples
    assert [(sample.prompt, sample.gold) for sample in samples] == [entry[1:] for entry in ten()]
    assert [sample.clip.path.name for sample in samples][::4] == ["v_0.mp4", "v_1.mp4", "v_2.mp4"]
    assert task.protocols_for("question")[0] == "gpt_assisted"


def test_a_video_is_read_once_for_the_questions_in_a_row_about_it(tmp_path, predicted, monkeypatch):
    msrvtt(tmp_path / "data")
    read = []
    monkeypatch.setattr(
        predictor, "load_video", lambda path, *given, **named: read.append(path) or load_video(path, *given, **named)
    )
    predicted("msrvtt_qa", tmp_path / "data")
    assert len(set(read)) == 3 and len(read) < 10


def test_few_videos_wait_in_memory_for_their_batch(tmp_path, predicted, monkeypatch):
    msrvtt(tmp_path / "data")
    waiting, most = Counter(), Counter()
    prepare, predict = predictor.Predictor.prepare, predictor.Predictor.predict

    def counts(self, sample):
        waiting["now"] += 1
        most["ever"] = max(most["ever"], waiting["now"])
        return prepare(self, sample)

    def releases(self, batch):
        waiting["now"] -= len(batch)
        return predict(self, batch)

    monkeypatch.setattr(predictor.Predictor, "prepare", counts)
    monkeypatch.setattr(predictor.Predictor, "predict", releases)
    predicted("msrvtt_qa", tmp_path / "data", batch_size=1)
    assert most["ever"] <= 2 * 16 // 8 + 1


def test_original_and_repackaged_files_are_told_apart_and_the_original_is_preferred(tmp_path):
    task = task_named("msvd_qa")
    names = ["test_qa.json", "youtube_mapping.txt"]
    assert [file.name for file in task.files(tmp_path, "test")] == names
    repackaged(tmp_path, "msvd_qa")
    assert [file.name for file in task.files(tmp_path, "test")] == ["test_q.json", "test_a.json"]
    msvd(tmp_path)
    assert [file.name for file in task.files(tmp_path, "test")] == names


def test_clips_of_msvd_are_found_by_their_number(tmp_path):
    msvd(tmp_path)
    samples = task_named("msvd_qa").load(tmp_path, "test", "short")
    assert [sample.clip.path.name for sample in samples][::4] == [f"-clip.{video}_5_15.avi" for video in range(3)]


def test_types_of_tgif_are_scored_apart(tmp_path, predicted):
    tgif(tmp_path / "data")
    summary = score_directory(predicted("tgif_qa", tmp_path / "data"))["protocols"]["exact_match"]["summary"]
    assert list(summary["by_type"]) == ["color", "location", "number", "object"]


def test_exact_match_and_its_normalised_variant_are_those_worked_out_by_hand(answered):
    pairs = [("cat", " Cat. "), ("cat", "a cat"), ("two", "2"), ("cat", "cat.."), ("dog", "cat"), ("cat", "CAT")]
    directory = answered(*pairs)
    exact = score_directory(directory, protocol="exact_match")["protocols"]["exact_match"]["summary"]
    assert exact == {"accuracy": pytest.approx(2 / 6)}
    both = score_directory(directory, protocol="vqa_norm")["protocols"]
    assert both["vqa_norm"]["summary"]["accuracy"] == pytest.approx(5 / 6)
    assert both["exact_match"]["summary"] == exact


def test_verdicts_are_counted_as_worked_out_by_hand(answered, server, judge):
    says(
        server,
        [
            "{'pred': 'yes', 'score': 4.8}",  # cut to 4
            '{"pred": "No", "score": "2"}',
            "{'pred': 'unknown', 'score': 1}",  # holds "no"
            "{'pred': 'maybe', 'score': 3}",  # neither
            "```{'pred': 'yes', 'score': 5}```",  # cannot be read: no, 0
        ],
    )
    directory = answered(*[("cat", "a cat")] * 5)
    entry = score_directory(directory, protocol="gpt_assisted", judge=judge)["protocols"]["gpt_assisted"]
    expected = {"accuracy": 1 / 4, "score": (4 + 2 + 1 + 3 + 0) / 5, "yes": 1, "no": 3, "neither": 1}
    assert entry["summary"] == pytest.approx(expected)
    assert entry["judged_by"]["failures"] == [{"unparsed": 1}]
    assert len(server.requests) == 4 + 5  # the last was asked for again, with an end
    lines = [json.loads(line) for line in (directory / PREDICTIONS).read_text().splitlines()]
    assert [line["parsed"] for line in lines[1:3]] == [[["yes", 4]], [["no", 2]]]


def test_an_item_that_gets_no_answer_gives_no_score_unless_partial_which_shows(answered, server, judge):
    says(server, ["{'pred': 'yes', 'score': 4}", "hang up", (503, {})])
    directory = answered(*[("cat", "a cat")] * 3)
    with pytest.raises(ValueError, match="not answered for 2 of 3 items.*'connection': 1.*'http_503': 1"):
        score_directory(directory, protocol="gpt_assisted", judge=judge)
    result = score_directory(directory, protocol="gpt_assisted", judge=judge, allow_partial=True)
    entry = result["protocols"]["gpt_assisted"]
    assert entry["summary"]["accuracy"] == 1.0 and entry["summary"]["yes"] == 1
    assert entry["judged_by"]["failures"] == [{"connection": 1, "http_503": 1}]


def test_a_replay_needs_neither_network_nor_key(answered, server, judge, monkeypatch):
    says(server, ["{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 0}"])
    directory = answered(("cat", "cat"), ("dog", "cat"))
    before = score_directory(directory, protocol="gpt_assisted", judge=judge)
    monkeypatch.delenv("OPENAI_API_KEY")
    replay = JudgeSettings(judge.cache, replay=True)
    assert score_directory(directory, protocol="gpt_assisted", judge=replay) == before
    assert len(server.requests) == 2
    with pytest.raises(JudgeCacheMiss):
        score_directory(directory, protocol="gpt_assisted", judge=JudgeSettings(judge.cache, "another", replay=True))


def test_asking_a_judge_without_a_key_stops_before_anything_is_read_and_names_the_variable(server, tmp_path):
    settings = Settings(tmp_path / "no-data", tmp_path / "run", prompt="question")
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        evaluate("no-model", ["tgif_qa"], settings)
    assert not (tmp_path / "run").exists()


def _edit(path: Path, change: Callable[[list[Any]], None]) -> None:
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[3].pop("answer"), "record 4: has no 'answer'"),
        (lambda rows: rows[3].update(answer="a cat"), "record 4: 'answer' is 'a cat', not one word"),
        (lambda rows: rows[3].update(video_id="12"), "record 4: 'video_id'"),
        (lambda rows: rows[3].update(video_id=99), "record 4: .*youtube_mapping.txt has no clip for vid99"),
        (lambda rows: rows[3].update(question=" "), "record 4: 'question' is empty"),
    ],
)
def test_a_broken_record_names_file_and_record(tmp_path, change, problem):
    msvd(tmp_path)
    _edit(tmp_path / "msvd_qa" / "test_qa.json", change)
    with pytest.raises(ValueError, match=f"test_qa.json, {problem}"):
        plan_task(task_named("msvd_qa"), Settings(tmp_path, tmp_path / "run"), {})


@pytest.mark.parametrize("line", ["one", "a b c", "clip 12", "again vid1301"])
def test_a_broken_mapping_names_file_and_line(tmp_path, line):
    msvd(tmp_path)
    mapping = tmp_path / "msvd_qa" / "youtube_mapping.txt"
    mapping.write_text(mapping.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"youtube_mapping.txt, line 5: .*{line}"):
        plan_task(task_named("msvd_qa"), Settings(tmp_path, tmp_path / "run"), {})


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("test_a.json", lambda rows: rows.pop(2), "test_q.json, record 8: .*has no answer"),
        ("test_a.json", lambda rows: rows.append(rows[1]), "test_a.json, record 11: a second answer"),
        ("test_q.json", lambda rows: rows.pop(4), "test_a.json, record 6: .*has no question"),
        ("test_q.json", lambda rows: rows.append(rows[1]), "test_q.json, record 11: .*no answer of its own"),
        ("test_q.json", lambda rows: rows[1].pop("question_id"), "test_q.json, record 2: .*'question_id'"),
    ],
)
def test_questions_and_answers_that_do_not_belong_together_are_refused(tmp_path, file, change, problem):
    repackaged(tmp_path, "tgif_qa")
    _edit(tmp_path / "tgif_qa" / file, change)
    with pytest.raises(ValueError, match=problem):
        plan_task(task_named("tgif_qa"), Settings(tmp_path, tmp_path / "run"), {})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("tumblr_1_400\twhat?\tcat\t0\tFRAMEQA99", "one value for each of the columns"),
        ("tumblr_1_400\twhat?\tcat\t0\tFRAMEQA99\t7\tx\ty", "one value for each of the columns"),
        ("tumblr_1_400\twhat?\tcat\t4\tFRAMEQA99\t7\tx", "'type' is '4'"),
        ("tumblr_1_400\twhat?\ta cat\t0\tFRAMEQA99\t7\tx", "not one word"),
        ("tumblr_1_400\twhat?\t\t0\tFRAMEQA99\t7\tx", "'answer' is empty"),
    ],
)
def test_a_broken_line_of_tgif_names_file_and_line(tmp_path, line, problem):
    tgif(tmp_path)
    path = tmp_path / "tgif_qa" / "Test_frameqa_question.csv"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"Test_frameqa_question.csv, line 12: .*{problem}"):
        plan_task(task_named("tgif_qa"), Settings(tmp_path, tmp_path / "run"), {})


@pytest.mark.parametrize(
    ("task", "name"), [("tgif_qa", "Test_frameqa_question.csv"), ("msvd_qa", "youtube_mapping.txt")]
)
def test_a_file_in_another_encoding_is_named(tmp_path, task, name):
    {"tgif_qa": tgif, "msvd_qa": msvd}[task](tmp_path)
    path = tmp_path / task / name
    path.write_bytes(path.read_bytes() + b"caf\xe9\n")
    with pytest.raises(ValueError, match=rf"{name}: not UTF-8 at byte \d+"):
        plan_task(task_named(task), Settings(tmp_path, tmp_path / "run"), {})


def test_a_tgif_file_separated_by_commas_is_refused(tmp_path):
    tgif(tmp_path)
    path = tmp_path / "tgif_qa" / "Test_frameqa_question.csv"
    path.write_text(path.read_text().replace("\t", ","))
    with pytest.raises(ValueError, match="line 1: has no column 'gif_name', separated by tabs"):
        plan_task(task_named("tgif_qa"), Settings(tmp_path, tmp_path / "run"), {})


def test_a_missing_video_stops_before_generation_and_is_named(tmp_path):
    msrvtt(tmp_path)
    (tmp_path / "msrvtt_qa" / "videos" / "video7011.mp4").unlink()
    with pytest.raises(ValueError, match="1 of 3 images or videos are missing, first .*video7011.mp4"):
        plan_task(task_named("msrvtt_qa"), Settings(tmp_path, tmp_path / "run"), {})
