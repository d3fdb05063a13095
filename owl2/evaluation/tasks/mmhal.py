"""MMHal-Bench: does an open answer invent what the picture does not show? Rated 0 to 6 by GPT-4 (specification, 11)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import image_path, rows
from owl2.evaluation.judge.benchmark_items import MMHAL_JUDGE, mmhal_item
from owl2.evaluation.judge.judge import JudgeItem
from owl2.evaluation.task import Decoding, JudgedScoring, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import only_judged, verbatim
from owl2.evaluation.tasks.shared.judged_runs import summary_over_runs

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
"""The types of the questions, by their index modulo 8."""

_HALLUCINATES_BELOW = 3


def _file(root: Path) -> Path:
    return root / "mmhal" / "response_template.json"


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    samples = []
    for index, row in enumerate(rows(_file(root))):
        kind = TYPES[index % len(TYPES)]
        if kind not in row.text("question_type").lower():
            raise row.error(f"'question_type' is {row.values['question_type']!r:.60} where the order has {kind}")
        name = row.text("image_src").rsplit("/", 1)[-1]  # an address, whose last part is the name in test_data.zip
        question = verbatim(row, "question")
        samples.append(
            Sample(
                id=str(index),
                prompt=question,
                gold=verbatim(row, "gt_answer"),
                images=(Path(image_path(root / "mmhal" / "images", name, row)),),
                details={
                    "question": question,
                    "image_content": row.texts("image_content"),
                    "question_type": row.string("question_type"),
                    "question_topic": row.string("question_topic"),
                    "image_id": row.string("image_id"),
                    "image_src": row.string("image_src"),
                },
            )
        )
    return samples


def _items(records: Sequence[Prediction], protocol: str, prompts: Mapping[str, str]) -> list[JudgeItem[Any]]:
    return [
        mmhal_item(
            record.id,
            record.details["image_content"],
            record.details["question"],
            record.gold,
            record.answer,
            prompts["mmhal"],
        )
        for record in records
    ]


def _score(records: Sequence[Prediction], runs: Sequence[Mapping[str, int]], protocol: str) -> Scores:
    ratings = [[run[record.id] for run in runs if record.id in run] for record in records]
    summary = summary_over_runs([_measures(records, run) for run in runs])
    return Scores(ratings, [fmean(own) if own else None for own in ratings], summary)


def _measures(records: Sequence[Prediction], ratings: Mapping[str, int]) -> dict[str, float]:
    """Measures of one run: mean rating, share of answers that hallucinate, mean rating of each type of question."""
    rated = [(_kind(record), ratings[record.id]) for record in records if record.id in ratings]
    if not rated:
        return {}
    return {
        "overall": fmean(rating for _, rating in rated),
        "hallucination_rate": fmean(rating < _HALLUCINATES_BELOW for _, rating in rated),
        **{kind: fmean(own) for kind in TYPES if (own := [rating for known, rating in rated if known == kind])},
    }


def _kind(record: Prediction) -> str:
    return TYPES[int(record.id) % len(TYPES)]


def _submission(records: Sequence[Prediction], out: Path) -> Path:
    """The template with its answers filled in, as the official scorer reads it."""
    path = out / "mmhal.json"
    filled = []
    for record in records:
        fields = {name: record.details[name] for name in ("question_type", "question_topic", "image_id", "image_src")}
        texts = {"question": record.details["question"], "gt_answer": record.gold, "model_answer": record.answer}
        filled.append({**fields, "image_content": record.details["image_content"], **texts})
    path.write_text(json.dumps(filled, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


TASK = Task(
    name="mmhal",
    title="MMHal-Bench",
    splits=("test",),
    prompts=("question",),
    protocols=("mmhal_official",),
    files=lambda root, split: [_file(root)],
    load=_load,
    score=only_judged,
    primary_metric="overall",
    download_hint="Put response_template.json of Shengcao1006/MMHal-Bench (Hugging Face) into mmhal/, "
    "and the images of its test_data.zip into mmhal/images/.",
    decoding={"": Decoding(max_new_tokens=1024)},
    counts={"test": 96},
    judged=JudgedScoring(MMHAL_JUDGE, 1, ("mmhal_official",), ("mmhal",), _items, _score),
    submission=_submission,
    paper_results={("supplement_table_7", name): name for name in ("overall", "hallucination_rate", *TYPES)},
)
