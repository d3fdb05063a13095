"""GQA: `train_balanced_questions.json`, images in one folder.

943,000 questions of 72,140 images, merged by image (Table 8's 72K). From a file with all questions, only those with
`isBalanced` are read. The short `answer` is learnt, to a question worded as in the published evaluation.
"""

import random
from collections.abc import Iterator

from owl2.data.annotations import AnyPath, image_path, keyed_rows
from owl2.data.records import Conversation

from .merging import Asked, merge_questions, short_answer_prompt


def conversations(questions: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0) -> Iterator[Conversation]:
    """One record an image: its questions in an order of the epoch.

    Args:
        questions: Question ids, each with `imageId`, `question`, `answer`, `isBalanced`.
        images: The folder of `<imageId>.jpg`.

    Raises:
        ValueError: A broken record, by file and number.
    """
    yield from merge_questions(_asked(questions, images), random.Random(f"gqa-{seed}-{epoch}"))


def _asked(questions: AnyPath, images: AnyPath) -> Iterator[Asked]:
    for _, row in keyed_rows(questions):
        if row.boolean("isBalanced"):
            image = row.text("imageId")
            file = image_path(images, f"{image}.jpg", row)
            yield Asked(f"gqa-{image}", file, short_answer_prompt(row.text("question")), row.text("answer"))
