"""Parsing of BIG-Bench Hard answers, against cases worked out by hand from OpenCompass's rules."""

import pytest

from owl2.evaluation.metrics.bbh import bbh_answer


@pytest.mark.parametrize("protocol", ["opencompass2023", "opencompass2026"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(A)", "A"),  # a target
        ("Not (A). So the answer is (C).", "C"),
        ("So the answer is B, not (C)", "C"),  # parentheses go first
        ("So the answer is B.", "B"),
        ("so the answer is option (b) or D", "D"),
        ("(All of them) (B)", "A"),  # the closing parenthesis is not asked for
        ("The answer is unclear. The answer is (B)", "T"),  # what is between the first two
        ("the answer is not clear, but the answer is (B)", "not clear, but the"),
        ("The Answer Is (B)", "B"),  # not an announcement, but parentheses go first anyway
        ("Z then the answer is:(q)", "Z"),
        ("no idea \n", "no idea \n"),
        ("", ""),
    ],
)
def test_a_choice_is_the_first_capital_in_parentheses_else_the_first_capital(
    text: str, expected: str, protocol: str
) -> None:
    assert bbh_answer(text, "choice", protocol) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let's see. So the answer is True.", "True"),
        ("So the answer is 24.\n\nQ: next. So the answer is 25.", "24"),
        ("So the answer is  ] ) \nmore", "] ) "),  # the line's end stays
        ("So the answer is no. The answer is yes.", "no. The"),
        ("So the answer is 3..", "3."),
        ("So the answer is yes", "yes"),
        ("So the answer is **Yes**.", "**Yes**"),
        ("So the Answer is Yes", "So the Answer is Yes"),
        (" Yes. ", " Yes. "),  # without an announcement nothing is stripped
        ("Yes.\n", "Yes"),
        ("\nYes", ""),
    ],
)
def test_a_free_answer_is_the_announced_line_without_its_full_stop(text: str, expected: str) -> None:
    assert bbh_answer(text, "free") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is no. The ANSWER IS: yes, indeed.", "Yes"),
        ("So the answer is **true or so**", "True"),
        ("So the answer is false\nmore", "False"),
        ("answer is nothing .", "nothing"),
        (" **not valid** ", "not valid"),
        ("the answer is apple, pear ,plum.", "apple pear plum"),
        ("the answer is 1, 2  x", "1, 2 x"),
        ("[ ] ", "[ ]"),
        ("", ""),
    ],
)
def test_a_free_answer_of_2026_is_the_last_announced_and_normalized(text: str, expected: str) -> None:
    assert bbh_answer(text, "free", protocol="opencompass2026") == expected


def test_an_unknown_kind_or_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'mcq'.*choice, free"):
        bbh_answer("(A)", "mcq")
    with pytest.raises(ValueError, match="'lmeval'.*opencompass2023, opencompass2026"):
        bbh_answer("(A)", "choice", protocol="lmeval")
