"""OCR-VQA: `dataset.json`, book covers in one folder.

The questions of a book are merged into one conversation. Split 1 (train) is read: some 166K books, of which Table 8's
80K is a sample. Questions are worded as in the published evaluation of short answers.
"""

import random
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from owl2.data.annotations import AnyPath, Row, image_path, keyed_rows
from owl2.data.records import Conversation

from .merging import Asked, merge_questions, short_answer_prompt

TRAIN = 1  # 2 is validation, 3 test


def conversations(annotations: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0) -> Iterator[Conversation]:
    """One record a book: its questions in an order of the epoch.

    Args:
        annotations: `dataset.json`: book ids, each with `imageURL`, `questions`, `answers`, `split`.
        images: The folder of the covers, named as the official download script does: the book's id with the ending of
            its `imageURL` (`.jpg`, rarely `.png` or `.gif`).

    Raises:
        ValueError: A broken record, by file and number.
    """
    yield from merge_questions(_asked(annotations, images), random.Random(f"ocr_vqa-{seed}-{epoch}"))


def _asked(annotations: AnyPath, images: AnyPath) -> Iterator[Asked]:
    for book, row in keyed_rows(annotations):
        if row.integer("split") != TRAIN:
            continue
        questions, answers = row.texts("questions"), row.texts("answers")
        if len(questions) != len(answers):
            raise row.error(f"has {len(questions)} questions, but {len(answers)} answers")
        file = image_path(images, book + _ending(row), row)
        for question, answer in zip(questions, answers, strict=True):
            yield Asked(f"ocr_vqa-{book}", file, short_answer_prompt(question), answer)


def _ending(row: Row) -> str:
    url = row.text("imageURL")
    ending = PurePosixPath(urlsplit(url).path).suffix
    if not ending:
        raise row.error(f"imageURL {url!r:.200} does not end like the name of an image file")
    return ending
