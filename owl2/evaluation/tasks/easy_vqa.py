"""easy-VQA: the test questions of the quickstart, which the PyPI package `easy-vqa` ships. Nothing is to be fetched."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from owl2.data.sources.easy_vqa import COLORS, SHAPES, load_questions
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    questions = load_questions(split)
    return [Sample(item.id, item.question, item.answer, images=(Path(item.image),)) for item in questions]


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    correct = [float(record.answer.lower() == record.gold) for record in records]
    by_kind = means_by([_kind(record.gold) for record in records], correct)
    return Scores([record.answer for record in records], correct, {"accuracy": fmean(correct), "by_kind": by_kind})


def _kind(answer: str) -> str:
    return "shape" if answer in SHAPES else "color" if answer in COLORS else "yes_no"


TASK = Task(
    name="easy_vqa",
    title="easy-VQA",
    splits=("test", "train"),
    prompts=("question",),
    protocols=("exact_match",),
    files=lambda root, split: [],
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="pip install 'owl2[quickstart]'",
    decoding={"": Decoding(max_new_tokens=8)},
    counts={"test": 9673, "train": 38575},
    suffix="",  # as the models of the quickstart were trained
)
