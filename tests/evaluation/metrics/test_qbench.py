"""Q-Bench's choices."""

import math
from typing import Any

import pytest

from owl2.evaluation.metrics.qbench import qbench_choice

LIGHT = {"A": "Good", "B": "Bright", "C": "Dark", "D": "Average"}


@pytest.mark.parametrize(
    ("prediction", "choice"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("D. Average", "D"),  # and not A, which occurs in it
        ("C) Bad", "C"),
        ("(B)", "B"),
        ("B: dark", "B"),
        ("A. Good or B. Bright", "A"),
        ("A, since nothing at all is too bright in here", "A"),
    ],
)
def test_a_letter_at_the_beginning_decides(prediction: str, choice: str) -> None:
    assert qbench_choice(prediction, LIGHT) == choice


@pytest.mark.parametrize(
    ("prediction", "choice"),
    [
        ("Average", "D"),  # not A: its first letter does not stand alone
        ("Dark", "C"),
        ("it is bright", "B"),
        ("The answer is C, as nothing can be seen", "C"),
        ("**B**", "B"),
        ("E. Dark", "C"),  # E is not an option
        ("Good and bright", None),
        ("A B", None),
        ("d", None),
        ("", None),
        ("Cannot determine the answer", "Z"),
    ],
)
def test_other_answers_are_read_as_mmbench_reads_them(prediction: str, choice: str | None) -> None:
    assert qbench_choice(prediction, LIGHT) == choice


@pytest.mark.parametrize("missing", ["", None, math.nan])
def test_an_option_that_the_question_lacks_is_not_chosen(missing: Any) -> None:
    assert qbench_choice("C. It is dark", {"A": "Bright", "B": "Dark", "C": missing}) == "B"
