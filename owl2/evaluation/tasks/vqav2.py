"""VQAv2: the answers of val are public; test-dev and test are scored by a server (specification, 2.4)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from owl2.data.annotations import Row
from owl2.evaluation.metrics import evalai_answer
from owl2.evaluation.task import Prediction, Sample, Task
from owl2.evaluation.tasks.shared.vqa import (
    DECODING,
    annotated_samples,
    coco_image,
    questions_of,
    score_vqa,
    with_instruction,
    write_answers,
)

_SUBTYPES = {"val": "val2014", "test-dev": "test-dev2015", "test": "test2015"}


def _questions(root: Path, split: str) -> Path:
    return root / "vqav2" / f"v2_OpenEnded_mscoco_{_SUBTYPES[split]}_questions.json"


def _annotations(root: Path) -> Path:
    return root / "vqav2" / "v2_mscoco_val2014_annotations.json"


def _files(root: Path, split: str) -> list[Path]:
    others = {"val": [_annotations(root)], "test-dev": [_questions(root, "test")]}
    return [_questions(root, split), *others.get(split, [])]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    if split == "val":
        return annotated_samples(root, _questions(root, split), _annotations(root), prompt, stemmed=False)
    rows = questions_of(_questions(root, split), _SUBTYPES[split], "test2015")
    samples = [_unannotated(root, row, prompt) for row in rows]
    if split == "test-dev" and samples:  # the first sample carries what the submission needs besides the answers
        samples[0] = replace(samples[0], details={"unasked": _unasked(root, rows)})
    return samples


def _unannotated(root: Path, row: Row, prompt: str) -> Sample:
    return Sample(
        id=str(row.integer("question_id")),
        prompt=with_instruction(row.text("question"), prompt),
        gold=None,
        images=(coco_image(root, "test2015", row.integer("image_id")),),
    )


def _unasked(root: Path, test_dev: Sequence[Row]) -> list[int]:
    """The questions of test2015 that are not in test-dev: the server wants an answer to each, if an empty one."""
    file = _questions(root, "test")
    identifiers = dict.fromkeys(row.integer("question_id") for row in questions_of(file, "test2015"))
    for row in test_dev:
        if row.integer("question_id") not in identifiers:
            raise row.error(f"question {row.integer('question_id')} is not in {file.name}, or occurs twice")
        del identifiers[row.integer("question_id")]
    return list(identifiers)


def _submission(records: Sequence[Prediction], directory: Path) -> Path:
    """All questions of test2015. Answers are normalised, since the server compares some as they are."""
    answers: list[dict[str, Any]] = [
        {"question_id": int(record.id), "answer": evalai_answer(record.answer)} for record in records
    ]
    unasked = [question for record in records for question in record.details.get("unasked", [])]
    answers += [{"question_id": question, "answer": ""} for question in unasked]
    return write_answers(answers, directory / "v2_OpenEnded_mscoco_test2015_owl2_results.json")


TASK = Task(
    name="vqav2",
    title="VQAv2",
    splits=tuple(_SUBTYPES),
    prompts=("space", "newline"),
    protocols=("vqa_official", "vqa_owl2"),
    files=_files,
    load=_load,
    score=score_vqa,
    primary_metric="accuracy",
    download_hint="Put what is in v2_{Questions_Val,Annotations_Val,Questions_Test}_mscoco.zip of visualqa.org into "
    "vqav2/ and COCO's images into coco/val2014/ and coco/test2015/.",
    decoding={"": DECODING},
    counts={"val": 214354, "test-dev": 107394, "test": 447793},
    submission=_submission,
    submitted_splits=("test-dev", "test"),
    paper_results={("paper_table_1", "vqav2"): "accuracy", ("readme", "vqav2"): "accuracy"},
    not_comparable={"val": "the paper reports test-dev, this is val"},
)
