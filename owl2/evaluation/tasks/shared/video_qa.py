"""The common parts of MSRVTT-QA, MSVD-QA and TGIF-QA (specification, 12): samples, exact match, and the judge.

Each has an original form of its own, and one repackaged in the form of Video-ChatGPT: `test_q.json` and `test_a.json`,
whose records belong together by `question_id`, whatever their order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import Row, image_path, rows
from owl2.evaluation.judge.benchmark_items import VIDEO_JUDGE, video_item
from owl2.evaluation.judge.judge import JudgeItem
from owl2.evaluation.metrics import normalize_vqa_answer
from owl2.evaluation.task import Clip, Decoding, JudgedScoring, Prediction, Sample, Scores, Task

from .common import SHORT_ANSWER, identifier, means_by, verbatim
from .judged_runs import summary_over_runs

NUM_FRAMES = 8
"""The number of evenly spread frames; the number given to the published model is unknown."""

ENDINGS = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif")
"""The endings of video files, in the order in which they are tried."""

JUDGED = "gpt_assisted"

_JUDGE_PROMPTS = ("video_qa_system", "video_qa_user")
_PROMPTS = {"short": f"\n{SHORT_ANSWER}", "question": ""}


@dataclass(frozen=True)
class VideoQuestion:
    """A question about a video.

    Attributes:
        video: Name of the file; its ending may be missing.
        kind: Kind of the question, where the file tells it.
        row: The record, for errors.
    """

    id: str
    video: str
    question: str
    answer: str
    kind: str | None
    row: Row


def video_task(
    name: str,
    title: str,
    count: int,
    files: Sequence[str],
    questions: Callable[[Path], Iterable[VideoQuestion]],
    download_hint: str,
) -> Task:
    """A task that reads `files`, or else the repackaged ones, in the folder of its name, and `videos/` beside them.

    Args:
        count: Number of test questions.
        questions: Reads the original files in a folder.
    """

    def is_repackaged(folder: Path) -> bool:
        return not (folder / files[0]).is_file() and (folder / "test_q.json").is_file()

    def wanted(root: Path, split: str) -> list[Path]:
        folder = root / name
        return [folder / file for file in (("test_q.json", "test_a.json") if is_repackaged(folder) else files)]

    def load(root: Path, split: str, prompt: str) -> list[Sample]:
        folder = root / name
        found = repackaged_questions(folder) if is_repackaged(folder) else questions(folder)
        return [_sample(each, folder / "videos", prompt) for each in found]

    return Task(
        name=name,
        title=title,
        splits=("test",),
        prompts=tuple(_PROMPTS),
        protocols=("exact_match", "vqa_norm", JUDGED),
        protocols_of={"question": (JUDGED, "exact_match", "vqa_norm")},
        files=wanted,
        load=load,
        score=_exact_match,
        primary_metric="accuracy",
        download_hint=f"{download_hint} Put the files into {name}/ and the videos into {name}/videos/.",
        decoding={"": Decoding(max_new_tokens=10), "question": Decoding(max_new_tokens=128)},
        counts={"test": count},
        judged=JudgedScoring(VIDEO_JUDGE, 1, (JUDGED,), _JUDGE_PROMPTS, _items, _judged),
        paper_results={
            ("paper_table_4", f"exact_match.{name}.accuracy"): "exact_match:accuracy",
            ("paper_table_4", f"{JUDGED}.{name}.accuracy"): f"{JUDGED}:accuracy",
            ("paper_table_4", f"{JUDGED}.{name}.score"): f"{JUDGED}:score",
        },
        not_comparable={
            "test": f"how many frames and which prompt the paper used is not published ({NUM_FRAMES} frames here)"
        },
    )


def original_questions(path: Path, video: Callable[[Row], str]) -> Iterator[VideoQuestion]:
    """The questions of `test_qa.json` of MSRVTT-QA and MSVD-QA.

    Args:
        video: The video's name in a record.

    Raises:
        ValueError: A record lacks a field, or its answer is not one word.
    """
    for row in rows(path):
        category = row.values.get("category_id")
        kind = None if category is None else str(category)
        yield VideoQuestion(str(row.integer("id")), video(row), verbatim(row, "question"), one_word(row), kind, row)


def one_word(row: Row) -> str:
    """The answer of a record.

    Raises:
        ValueError: It is not one word.
    """
    answer = row.text("answer")
    if len(answer.split()) > 1:
        raise row.error(f"'answer' is {answer!r:.100}, not one word")
    return answer


def repackaged_questions(folder: Path) -> Iterator[VideoQuestion]:
    """The questions of `test_q.json`, each with the answer of its `question_id` in `test_a.json`.

    Raises:
        ValueError: A record lacks a field; a question has no answer or several, or an answer no question.
    """
    answers: dict[str, Row] = {}
    for row in rows(folder / "test_a.json"):
        name = identifier(row, "question_id")
        if name in answers:
            raise row.error(f"a second answer to the question_id {name!r}")
        answers[name] = row
    for row in rows(folder / "test_q.json"):
        name = identifier(row, "question_id")
        answer = answers.pop(name, None)
        if answer is None:
            raise row.error(f"the question_id {name!r} has no answer of its own in {folder / 'test_a.json'}")
        kind = answer.values.get("type")
        texts = verbatim(row, "question"), answer.text("answer")
        yield VideoQuestion(name, row.text("video_name"), *texts, None if kind is None else str(kind), row)
    if answers:
        name, row = next(iter(answers.items()))
        raise row.error(f"the question_id {name!r} has no question in {folder / 'test_q.json'}")


def _sample(asked: VideoQuestion, videos: Path, prompt: str) -> Sample:
    kind = {} if asked.kind is None else {"type": asked.kind}
    return Sample(
        id=asked.id,
        prompt=asked.question + _PROMPTS[prompt],
        gold=asked.answer,
        clip=Clip(_video_file(videos, asked), NUM_FRAMES),
        details={"question": asked.question, "video": asked.video, **kind},
    )


def _video_file(videos: Path, asked: VideoQuestion) -> Path:
    """The file of a video, or the name that it would have if it is missing."""
    path = image_path(videos, asked.video, asked.row)
    named = [Path(path)] if asked.video.lower().endswith(ENDINGS) else [Path(path + ending) for ending in ENDINGS]
    return next((file for file in named if file.is_file()), named[0])


def _exact_match(records: Sequence[Prediction], protocol: str) -> Scores:
    """Scores a prediction as right if it equals the answer: in lower case, without outer white space and one last
    period (`exact_match`), or normalised as in VQA (`vqa_norm`)."""
    if protocol == "vqa_norm":
        parsed = [normalize_vqa_answer(record.answer) for record in records]
        golds = [normalize_vqa_answer(record.gold) for record in records]
    else:
        parsed = [record.answer.lower().strip().removesuffix(".") for record in records]
        golds = [record.gold for record in records]
    correct = [float(answer == gold) for answer, gold in zip(parsed, golds, strict=True)]
    summary: dict[str, Any] = {"accuracy": fmean(correct)}
    kinds = [record.details["type"] for record in records if "type" in record.details]
    if len(kinds) == len(records):
        summary["by_type"] = means_by(kinds, correct)
    return Scores(parsed, correct, summary)


def _items(records: Sequence[Prediction], protocol: str, prompts: Mapping[str, str]) -> list[JudgeItem[Any]]:
    system, user = (prompts[name] for name in _JUDGE_PROMPTS)
    return [
        video_item(record.id, record.details["question"], record.gold, record.answer, system, user)
        for record in records
    ]


def _judged(records: Sequence[Prediction], runs: Sequence[Mapping[str, tuple[str, int]]], protocol: str) -> Scores:
    parsed = [[list(run[record.id]) for run in runs if record.id in run] for record in records]
    given = [[run[record.id][1] for run in runs if record.id in run] for record in records]
    summary = summary_over_runs([_measures(list(run.values())) for run in runs])
    return Scores(parsed, [fmean(scores) if scores else None for scores in given], summary)


def _measures(verdicts: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Measures of one run: the share of yes among yes and no, and the mean score, which includes other verdicts."""
    if not verdicts:
        return {}
    yes, no = (sum(said == word for said, _ in verdicts) for word in ("yes", "no"))
    return {
        "accuracy": yes / (yes + no) if yes + no else 0.0,
        "score": fmean(score for _, score in verdicts),
        "yes": yes,
        "no": no,
        "neither": len(verdicts) - yes - no,
    }
