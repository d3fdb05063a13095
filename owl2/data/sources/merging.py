"""The questions of one image merged into one conversation (supplement, B.1: VQAv2, GQA, OKVQA, OCR-VQA)."""

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from owl2.data.records import Conversation, turns


class Asked(NamedTuple):
    """One question about an image.

    Attributes:
        name: Names the image in the ids of the records; questions of one name are merged.
        image: The file of the image.
    """

    name: str
    image: str
    question: str
    answer: str


def short_answer_prompt(question: str) -> str:
    """The question as the published evaluation scripts ask it: with a space, not a line break."""
    return f"{question} Answer the question using a single word or phrase."


def merge_questions(
    asked: Iterable[Asked], generator: random.Random, max_questions: int | None = None
) -> Iterator[Conversation]:
    """One conversation an image, images in the order of their first question, questions in a random order.

    Args:
        generator: Gives the order of the questions.
        max_questions: Split longer conversations in several.
    """
    groups: dict[str, list[Asked]] = {}
    for item in asked:
        groups.setdefault(item.name, []).append(item)
    for name, group in groups.items():
        group = generator.sample(group, len(group))
        size = max_questions or len(group)
        for start in range(0, len(group), size):
            exchanges = [(item.question, item.answer) for item in group[start : start + size]]
            yield Conversation(f"{name}-{start}", turns(exchanges, num_images=1), (group[0].image,))
