"""A-OKVQA as multiple choice: `aokvqa_v1p0_train.json`, images in `train2017/`.

The paper augments it "by switching the order of options" (supplement, B.1) and counts 50K records of 17,056 questions:
three orders of each (51,168). The right option has another letter in each, and each epoch has its own orders. The
wording is that of the published evaluation of multiple choice without a hint, its typographic apostrophe included; the
answer is the letter. `direct_answers` and `rationales` are not used.
"""

import random
from collections.abc import Iterator
from string import ascii_uppercase

from owl2.data.annotations import AnyPath, Row, image_path, rows
from owl2.data.records import Conversation, turns

INSTRUCTION = "Answer with the option\u2019s letter from the given choices directly."


def conversations(
    annotations: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0, orders: int = 3
) -> Iterator[Conversation]:
    """`orders` records a question.

    Args:
        annotations: A list, each with `split`, `image_id`, `question_id`, `question`, `choices`, `correct_choice_idx`.
        images: The folder that holds `<split>2017/<image_id, 12 digits>.jpg`.
        orders: At most the number of choices.

    Raises:
        ValueError: A broken record, by file and number.
    """
    for row in rows(annotations):
        question_id, question = row.text("question_id"), row.text("question")
        image = image_path(images, f"{row.text('split')}2017/{row.integer('image_id'):012d}.jpg", row)
        right, wrong = _choices(row)
        if orders > len(wrong) + 1:
            raise row.error(f"has {len(wrong) + 1} choices: {orders} orders cannot each give the right one a letter")
        generator = random.Random(f"{seed}-{epoch}-{question_id}")
        for position in generator.sample(range(len(wrong) + 1), orders):
            options = generator.sample(wrong, len(wrong))
            options.insert(position, right)
            letter = ascii_uppercase[position]
            messages = turns([(prompt(question, options), letter)], num_images=1)
            yield Conversation(f"a_okvqa-{question_id}-{letter}", messages, (image,))


def prompt(question: str, options: list[str]) -> str:
    """The question, one line an option, and the instruction."""
    lines = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines, INSTRUCTION])


def _choices(row: Row) -> tuple[str, list[str]]:
    choices, index = row.texts("choices"), row.integer("correct_choice_idx")
    if not 0 <= index < len(choices) <= len(ascii_uppercase):
        raise row.error(f"correct_choice_idx is {index}, of {len(choices)} choices")
    return choices[index], choices[:index] + choices[index + 1 :]
