"""easy-VQA: 5,000 pictures of one coloured shape and 48,248 questions, shipped by the PyPI package `easy-vqa` (MIT)."""

import random
from collections import Counter, defaultdict
from typing import NamedTuple

from owl2.data.records import Conversation, Pair, turns

from .merging import Asked, merge_questions

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


class Question(NamedTuple):
    id: str
    image: str
    question: str
    answer: str


def load_questions(split: str) -> list[Question]:
    """Questions of the `train` (38,575) or `test` (9,673) split, in the order of the package.

    Raises:
        ImportError: The package is not installed.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise ImportError("easy-VQA is not installed: pip install 'owl2[quickstart]'") from error
    questions = {"train": easy_vqa.get_train_questions, "test": easy_vqa.get_test_questions}[split]()
    paths = {"train": easy_vqa.get_train_image_paths, "test": easy_vqa.get_test_image_paths}[split]()
    return [
        Question(f"{split}-{index}", str(paths[image]), question, answer)
        for index, (question, answer, image) in enumerate(zip(*questions, strict=True))
    ]


def pairs(questions: list[Question]) -> list[Pair]:
    """One caption an image ("a teal circle."), from what the answers to its questions say about its colour and shape.

    An image about which only the colour or only the shape was asked gets a caption of that alone.
    """
    found = []
    for image, asked in _by_image(questions).items():
        thing = _described(asked)
        if thing is not None:
            found.append(Pair(image, image, f"a {thing}."))
    return found


def conversations(questions: list[Question], seed: int = 0, max_questions: int | None = None) -> list[Conversation]:
    """The questions of one image merged into one conversation (supplement, B.1), in a random order.

    Args:
        max_questions: Split longer conversations in several.
    """
    asked = (Asked(item.image, item.image, item.question, item.answer) for item in questions)
    return list(merge_questions(asked, random.Random(seed), max_questions))


def thinned(questions: list[Question], seed: int = 0) -> list[Question]:
    """Drops every second question that names another colour than the image's.

    Seven of eight questions whether there is a teal shape are about a shape that is not teal, so that a model may learn
    the frequent answer and never compare the colours. (With "yes" as frequent as "no" it would have nothing to start
    from: which answer is the frequent one is how it finds out what "not" does.)
    """
    generator = random.Random(seed)
    colors = {image: _revealed(asked, COLORS) for image, asked in _by_image(questions).items()}

    def names_another(question: Question) -> bool:
        named = set(question.question.rstrip("?").split()) & set(COLORS)
        return bool(named - {colors[question.image]})

    return [question for question in questions if not names_another(question) or generator.random() < 0.5]


def described(questions: list[Question], max_questions: int | None = None) -> list[Conversation]:
    """Reading comprehension: a picture's caption in words, and questions that the words answer; no images.

    A language model of any size would know what "not" and "teal" mean; a small one can learn it here, from text alone.
    """
    captions = {pair.image: pair.caption for pair in pairs(questions)}
    found = []
    for conversation in conversations(questions, max_questions=max_questions):
        caption = captions.get(conversation.images[0])
        if caption is None:
            continue
        spoken = [message["content"][-1]["text"] for message in conversation.messages]
        exchanges = list(zip(spoken[::2], spoken[1::2], strict=True))
        exchanges[0] = (f"{caption} {exchanges[0][0]}", exchanges[0][1])
        found.append(Conversation(conversation.id, turns(exchanges)))
    return found


def majority_answer(questions: list[Question]) -> str:
    """The most frequent answer."""
    return Counter(question.answer for question in questions).most_common(1)[0][0]


def _by_image(questions: list[Question]) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.image].append(question)
    return groups


def _described(asked: list[Question]) -> str | None:
    """The shape in words, as far as the answers reveal it: "teal circle", "circle", "teal shape", or `None`."""
    color, shape = _revealed(asked, COLORS), _revealed(asked, SHAPES)
    if color is None and shape is None:
        return None
    return f"{color} {shape or 'shape'}" if color else shape


def _revealed(asked: list[Question], words: tuple[str, ...]) -> str | None:
    """The word that is true of the image: an answer, or named by a question that supposes or confirms it."""
    for question in asked:
        if question.answer in words:
            return question.answer
        negated = any(word in question.question.split() for word in ("not", "no"))
        denied = question.answer == ("yes" if negated else "no")
        named = [word for word in words if word in question.question.rstrip("?").split()]
        if named and not denied:
            return named[0]
    return None
