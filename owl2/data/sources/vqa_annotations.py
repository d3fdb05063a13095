"""The annotation format of VQAv2, which OKVQA shares: a file of questions and a file of ten answers to each.

The paper takes "the answer with the highest confidence" (supplement, B.1) and does not say how ten answers, each with
an `answer_confidence` of yes, maybe or no, make one. The rule here: the answer that most annotators gave; among equals
the one with more `yes`, then with more `maybe`; then the one that comes first in the file. Answers are compared as
they are written; empty ones do not count.
"""

import random
from collections.abc import Iterator, Sequence

from owl2.data.annotations import AnyPath, Row, image_path, numbered, read_json, rows
from owl2.data.records import Conversation

from .merging import Asked, merge_questions, short_answer_prompt

CONFIDENCES = ("yes", "maybe", "no")


def merged_questions(
    questions: AnyPath, annotations: AnyPath, images: AnyPath, source: str, seed: int, epoch: int
) -> Iterator[Conversation]:
    """One record an image: its questions in an order of the epoch, each with its most confident answer.

    Args:
        questions: `data_subtype` and `questions`, each with `question_id`, `image_id`, `question`.
        annotations: `annotations`, each with `question_id`, `image_id`, `answers`.
        images: The folder that holds `<data_subtype>/COCO_<data_subtype>_<image_id, 12 digits>.jpg`.
        source: Begins the records' ids.

    Raises:
        ValueError: A broken record, by file and number; a question without annotation or the reverse.
    """
    asked = _asked(questions, _answers(annotations), images, source)
    yield from merge_questions(asked, random.Random(f"{source}-{seed}-{epoch}"))


def most_confident_answer(answers: Sequence[tuple[str, str]]) -> str | None:
    """The best of (answer, confidence) by the rule above, `None` if all are empty."""
    votes: dict[str, list[int]] = {}
    for answer, confidence in answers:
        if answer.strip():
            votes.setdefault(answer.strip(), [0, 0, 0])[CONFIDENCES.index(confidence)] += 1
    return max(votes, key=lambda answer: (sum(votes[answer]), *votes[answer]), default=None)


def _answers(annotations: AnyPath) -> dict[int, tuple[int, str]]:
    """The image and the answer of each question."""
    found: dict[int, tuple[int, str]] = {}
    for row in rows(annotations, "annotations"):
        question = row.integer("question_id")
        if question in found:
            raise row.error(f"question {question} is annotated twice")
        answer = most_confident_answer([_answer(item) for item in row.rows("answers")])
        if answer is None:
            raise row.error(f"question {question} has only empty answers")
        found[question] = (row.integer("image_id"), answer)
    return found


def _answer(row: Row) -> tuple[str, str]:
    confidence = row.text("answer_confidence")
    if confidence not in CONFIDENCES:
        raise row.error(f"answer_confidence is {confidence!r:.60}, not one of {CONFIDENCES}")
    return row.string("answer"), confidence


def _asked(questions: AnyPath, answers: dict[int, tuple[int, str]], images: AnyPath, source: str) -> Iterator[Asked]:
    contents = Row(read_json(questions), str(questions))
    subtype = contents.text("data_subtype")
    for row in numbered(contents.items("questions"), questions):
        question, image = row.integer("question_id"), row.integer("image_id")
        annotated, answer = answers.pop(question, (None, ""))
        if annotated is None:
            raise row.error(f"question {question} occurs twice or has no annotation: do the two files belong together?")
        if annotated != image:
            raise row.error(f"question {question} is about image {image}, but its annotation about image {annotated}")
        file = image_path(images, f"{subtype}/COCO_{subtype}_{image:012d}.jpg", row)
        yield Asked(f"{source}-{image}", file, short_answer_prompt(row.text("question")), answer)
    if answers:
        raise ValueError(f"{questions}: {len(answers)} annotations are of questions it lacks, such as {min(answers)}")
