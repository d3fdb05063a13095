"""easy-VQA as pairs and conversations."""

import re

import pytest

from owl2.data.sources import easy_vqa
from owl2.data.sources.easy_vqa import Question


def asked(*exchanges: tuple[str, str], image: str = "0.png") -> list[Question]:
    return [Question(f"train-{index}", image, question, answer) for index, (question, answer) in enumerate(exchanges)]


@pytest.fixture(scope="module")
def train() -> list[Question]:
    return easy_vqa.load_questions("train")


def test_the_package_ships_the_published_numbers_of_questions_and_images(train: list[Question]) -> None:
    test = easy_vqa.load_questions("test")
    assert (len(train), len(test)) == (38_575, 9_673)
    assert (len({item.image for item in train}), len({item.image for item in test})) == (4_000, 1_000)
    assert not {item.image for item in train} & {item.image for item in test}


@pytest.mark.parametrize(
    ("exchanges", "caption"),
    [
        ([("what color is the shape?", "teal"), ("what shape is in the image?", "circle")], "a teal circle."),
        ([("what is the blue shape?", "rectangle")], "a blue rectangle."),
        ([("is there a red shape?", "no"), ("is there a triangle?", "yes")], "a triangle."),
        ([("is there not a gray shape?", "no")], "a gray shape."),
        ([("is no black shape present?", "no"), ("is there a circle?", "no")], "a black shape."),
    ],
)
def test_a_caption_says_exactly_what_the_answers_reveal(exchanges: list[tuple[str, str]], caption: str) -> None:
    (pair,) = easy_vqa.pairs(asked(*exchanges))
    assert pair.caption == caption


def test_an_image_of_which_the_answers_reveal_nothing_gets_no_caption() -> None:
    assert easy_vqa.pairs(asked(("is there a red shape?", "no"), ("is there not a circle?", "yes"))) == []


def test_no_training_answer_contradicts_its_images_caption(train: list[Question]) -> None:
    captions = {pair.image: set(re.findall(r"\w+", pair.caption)) for pair in easy_vqa.pairs(train)}
    for item in train:
        caption = captions.get(item.image, set())
        for words in (easy_vqa.COLORS, easy_vqa.SHAPES):
            if item.answer in words and caption & set(words):
                assert item.answer in caption, f"{item} but the caption says {caption}"


def test_conversations_hold_every_question_once_and_one_image_each(train: list[Question]) -> None:
    conversations = easy_vqa.conversations(train, max_questions=6)
    spoken = [
        (conversation.images[0], question["content"][-1]["text"], reply["content"][0]["text"])
        for conversation in conversations
        for question, reply in zip(conversation.messages[::2], conversation.messages[1::2], strict=True)
    ]
    assert sorted(spoken) == sorted((item.image, item.question, item.answer) for item in train)
    assert max(len(conversation.messages) for conversation in conversations) == 12
    for conversation in conversations:
        kinds = [part["type"] for message in conversation.messages for part in message["content"]]
        assert kinds[0] == "image" and kinds.count("image") == 1 == len(conversation.images)


def test_thinning_out_leaves_half_of_the_questions_that_name_another_color_and_all_of_the_rest(
    train: list[Question],
) -> None:
    colors = {item.image: item.answer for item in train if item.answer in easy_vqa.COLORS}
    known = [item for item in train if item.image in colors]
    named = {item.id: set(item.question.rstrip("?").split()) & set(easy_vqa.COLORS) for item in known}
    others = {item.id for item in known if named[item.id] - {colors[item.image]}}
    kept = {item.id for item in easy_vqa.thinned(train)}

    assert 0.48 < len(others & kept) / len(others) < 0.52
    assert {item.id for item in known} - others <= kept
    assert kept == {item.id for item in easy_vqa.thinned(train)}


def test_the_majority_answer_is_the_most_frequent_one(train: list[Question]) -> None:
    assert easy_vqa.majority_answer(train) == "yes"
    assert easy_vqa.majority_answer(asked(("a?", "no"), ("b?", "no"), ("c?", "teal"))) == "no"
