"""The common parts of VQAv2, OK-VQA, VizWiz, TextVQA and GQA: prompts, ten answers, accuracy (specification, 2)."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import Row, numbered, read_json, rows
from owl2.evaluation.metrics import evalai_answer
from owl2.evaluation.metrics.vqa import compared_vqa_answers, human_agreement
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores

from .common import SHORT_ANSWER, means_by

DECODING = Decoding(max_new_tokens=10)

OF_THE_SCRIPTS = "vqa_owl2:"
"""The prefix of measures under the protocol of the official scripts, which scored the published val results."""

_ANSWER_TYPES = ("yes/no", "number", "other")
_UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
_INSTRUCTIONS = {
    "space": f" {SHORT_ANSWER}",  # the scripts of mPLUG-Owl2
    "newline": f"\n{SHORT_ANSWER}",  # LLaVA, lmms-eval
    "unanswerable": f"\n{_UNANSWERABLE}\n{SHORT_ANSWER}",  # LLaVA and lmms-eval on VizWiz
}
_CAPITALIZED = "_capitalized"  # lmms-eval on TextVQA and VizWiz: only the first letter is a capital then


def with_instruction(question: str, prompt: str, between: str = "") -> str:
    """A question with the instruction of a prompt, and what stands `between` them."""
    if prompt.endswith(_CAPITALIZED):
        question = question.capitalize()
    return question + between + _INSTRUCTIONS[prompt.removesuffix(_CAPITALIZED)]


def questions_of(file: Path, *subtypes: str) -> list[Row]:
    """The questions of a file in the format of VQAv2, which names its part of COCO.

    Raises:
        ValueError: It names another part, or the file is broken.
    """
    contents = Row(read_json(file), str(file))
    if (subtype := contents.text("data_subtype")) not in subtypes:
        raise contents.error(f"'data_subtype' is {subtype!r}, not {' or '.join(subtypes)}: is it another split's file?")
    return list(numbered(contents.items("questions"), file))


def annotated_samples(root: Path, questions: Path, annotations: Path, prompt: str, stemmed: bool) -> list[Sample]:
    """The questions of COCO val2014 in the format of VQAv2, with the human answers of their annotations.

    Args:
        stemmed: Each answer also has a `raw_answer`; `answer`, its stemmed form, is scored.

    Raises:
        ValueError: A broken record, by file and number; a question without annotation or the reverse.
    """
    annotated = annotations_by_question(annotations)
    samples = []
    for row in questions_of(questions, "val2014"):
        question, image = row.integer("question_id"), row.integer("image_id")
        annotation = annotated.pop(question, None)
        if annotation is None:
            raise row.error(f"question {question} occurs twice or has no annotation: do the two files belong together?")
        if annotation.integer("image_id") != image:
            raise annotation.error(f"question {question} is about image {annotation.integer('image_id')}, not {image}")
        samples.append(
            Sample(
                id=str(question),
                prompt=with_instruction(row.text("question"), prompt),
                gold=ten_answers(annotation, stemmed),
                images=(coco_image(root, "val2014", image),),
                details={"answer_type": _answer_type(annotation), "question_type": annotation.text("question_type")},
            )
        )
    if annotated:
        raise ValueError(
            f"{questions}: {len(annotated)} annotations are of questions it lacks, such as {min(annotated)}"
        )
    return samples


def annotations_by_question(file: Path) -> dict[int, Row]:
    """The annotations of a file in the format of VQAv2, by `question_id`.

    Raises:
        ValueError: A broken record, or a question that is annotated twice.
    """
    annotated: dict[int, Row] = {}
    for row in rows(file, "annotations"):
        if annotated.setdefault(row.integer("question_id"), row) is not row:
            raise row.error(f"question {row.integer('question_id')} is annotated twice")
    return annotated


def _answer_type(row: Row) -> str:
    if (found := row.text("answer_type")) not in _ANSWER_TYPES:
        raise row.error(f"'answer_type' is {found!r}, not one of {', '.join(_ANSWER_TYPES)}")
    return found


def coco_image(root: Path, part: str, image: int) -> Path:
    """An image of COCO by its id."""
    return root / "coco" / part / f"COCO_{part}_{image:012d}.jpg"


def ten_answers(row: Row, stemmed: bool = False) -> list[str]:
    """The answers of the ten people as they wrote them.

    Raises:
        ValueError: There are not ten answers, or one has no text.
    """
    answers = row.rows("answers")
    if stemmed:
        for answer in answers:
            answer.string("raw_answer")
    return exactly_ten(row, [answer.string("answer") for answer in answers])


def exactly_ten(row: Row, answers: list[str]) -> list[str]:
    """The answers, of which each protocol expects ten."""
    if len(answers) != 10:
        raise row.error(f"has {len(answers)} human answers, not ten")
    return answers


def score_vqa(records: Sequence[Prediction], protocol: str) -> Scores:
    """Accuracy over all questions and by their kinds; none for a split whose answers are not public."""
    if any(record.gold is None for record in records):
        parsed = [evalai_answer(record.answer) for record in records]
        return Scores(parsed, [None] * len(records), {"without_gold": len(records)})
    compared = [compared_vqa_answers(record.answer, record.gold, protocol) for record in records]
    scores = [human_agreement(*texts) for texts in compared]
    summary: dict[str, Any] = {"accuracy": fmean(scores)}
    for kind in ("answer_type", "question_type"):
        if all(kind in record.details for record in records):
            summary[f"per_{kind}"] = means_by([record.details[kind] for record in records], scores)
    return Scores([prediction for prediction, _ in compared], scores, summary)


def write_answers(answers: list[dict[str, Any]], path: Path) -> Path:
    """Writes the answers in the form that a server takes."""
    path.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    return path
