"""The choice that a reply to a ScienceQA question names: cases worked out by hand."""

import pytest

from owl2.evaluation.metrics import scienceqa_choice


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", 1),
        ("b", 1),
        (" B\n", 1),
        ("B.", 1),
        ("B. the moon", 1),
        ("B.the moon", 1),
        ("b.", None),  # a lower-case letter counts only alone
        ("b. the moon", None),
        ("(B)", None),
        ("B the moon", None),
        ("The answer is B.", None),
        ("D", None),  # there are three choices
        ("D. the sun", None),
        ("1", None),
        (".", None),
        ("", None),
        ("  ", None),
    ],
)
def test_lmms_takes_a_letter_alone_or_a_capital_with_a_period(reply: str, expected: int | None) -> None:
    assert scienceqa_choice(reply, 3) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", 1),
        ("B. the moon", 1),
        ("B. ", 1),
        ("B.", None),
        ("B.x", None),
        ("B ", None),
        (" B", None),
        ("b", None),
        ("(B)", None),
        ("AB", None),
        ("The answer is B.", 1),
        ("So: The answer is B, surely", 1),
        ("The answer is B", None),  # a character must follow,
        ("The answer is B\n", None),  # and a line break is none
        ("The answer is A. The answer is B.", None),
        ("The answer is B. The answer is B.", None),
        ("the answer is B.", None),
        ("F. The answer is B.", 1),
        ("C. The answer is B.", 2),  # the letter at the start is met first
        ("E. The answer is B.", None),  # even where the question has no such choice
        ("D", None),
        ("The answer is D.", None),
        ("The answer is F.", None),
        ("", None),
    ],
)
def test_llava_takes_an_exact_letter_or_one_sentence_that_gives_it(reply: str, expected: int | None) -> None:
    assert scienceqa_choice(reply, 3, "llava") == expected


def test_every_choice_of_a_question_can_be_named() -> None:
    for protocol in ("lmms", "llava"):
        assert [scienceqa_choice(letter, 5, protocol) for letter in "ABCDE"] == [0, 1, 2, 3, 4]


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'letter'.*lmms, llava"):
        scienceqa_choice("B", 3, "letter")


def test_a_number_of_choices_without_letters_is_refused() -> None:
    for number in (0, 27):
        with pytest.raises(ValueError, match=f"got {number}"):
            scienceqa_choice("A", number)
