"""GQA's exact match after each published normalisation: cases worked out by hand."""

import pytest

from owl2.evaluation.metrics import gqa_match


@pytest.mark.parametrize(
    ("prediction", "right"),
    [("yes", True), ("Yes.", True), ("YES...", True), ("yes!", False), ("yes. ", False), (" yes", False)],
)
def test_llava_drops_periods_at_the_end_and_case_and_nothing_else(prediction: str, right: bool) -> None:
    assert gqa_match(prediction, "yes") is right


def test_llava_takes_the_answer_as_it_is() -> None:
    assert not gqa_match("Yes", "Yes")
    assert not gqa_match("no.", "no.")


def test_official_compares_the_strings_as_they_are() -> None:
    assert gqa_match("yes", "yes", "official")
    assert not gqa_match("Yes", "yes", "official")
    assert not gqa_match("yes.", "yes", "official")


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        (" Yes, it does.", "yes"),
        ("No! never", "no"),
        ("It is red.", "red"),
        ("They are cats", "cats"),
        ("the top of the table", "top"),
        ("it is the back of an old car", "old car"),
        ("an owl the cat an egg", "cat"),  # `an ` is looked for before `the `
        ("pizza box", "box"),  # `a ` is found inside `pizza `
        ("blue", " Blue "),
        ("one, the other", "one"),
        ("left is left is right", "left"),  # only up to the second `is `
        ("This is a box", ""),  # `is ` is found inside `This `, and again right after it
    ],
)
def test_qwen_keeps_the_presumed_core_and_all_its_accidents(prediction: str, answer: str) -> None:
    assert gqa_match(prediction, answer, "qwen")


def test_qwen_misses_the_answers_that_its_accidents_destroy() -> None:
    assert not gqa_match("pizza box", "pizza box", "qwen")
    assert not gqa_match("This is a box", "box", "qwen")


def test_lmms_ignores_case_and_punctuation_but_not_spaces_inside() -> None:
    assert gqa_match("Yes!", "yes", "lmms")
    assert gqa_match(" t-shirt.\n", "T-Shirt", "lmms")
    assert gqa_match("tshirt", "t-shirt", "lmms")
    assert not gqa_match("t shirt", "t-shirt", "lmms")
    assert not gqa_match("the cat", "cat", "lmms")


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'exact'.*llava, official, qwen, lmms"):
        gqa_match("yes", "yes", "exact")
