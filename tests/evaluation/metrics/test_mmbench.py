"""MMBench's choices and CircularEval against cases worked out by hand from the two official programs' rules."""

import math
from typing import Any

import pytest

from owl2.evaluation.metrics.mmbench import mmbench_choice, mmbench_circular

PETS = {"A": "Cat", "B": "Dog", "C": "Small horse", "D": "Bird"}  # 21 characters
LETTER_CASES = [
    ("B", "B"),
    ("  B. Dog\n", "B"),
    ("(B)", "B"),
    ("**B**", "B"),
    ("#B:", "B"),
    ("Answer:{B}!", "B"),
    ("B B B", "B"),  # one distinct letter
    ("I think it is surely B", "B"),
    ("B as I see it", None),  # five words: B is not among the last four
    ("B is what I", "B"),
    ("B is B is B", None),  # its first place counts
    ("A and B", None),
    ("b", None),  # letters are case-sensitive
    ("E", None),  # not an option
    ("B-", None),  # a hyphen is not a mark
    ('"B"', None),
    ("A tall one here", "A"),  # no veto of the article
    ("", None),
]
STATEMENT_CASES = [
    ("The correct answer is B, and that is plain to see", "B"),
    ("A or B? The Answer  Is **b** since it is not A", "B"),
    ("answer is apples as everybody can see", "A"),  # no word boundary
    ("Of A and B the answer is C", "C"),
    ("A or B: the answer is: C", None),  # a colon in between
    ("A or B: the answer isC", None),
    ("A or B: the answer is D. The answer is B", "D"),
]
TEXT_CASES = [
    ("It is a dog", "B"),
    ("DOGS", "B"),
    ("A dog, not a cat, I say", None),  # two options
    ("a small horse here", "C"),
    ("d" * 39 + "dog", "B"),  # 42 characters: twice the options
    ("d" * 40 + "dog", None),  # 43
    ("The animal is B or C", None),
    ("Failed to obtain answer via API. B dog", "B"),  # the text only
    ("Failed to obtain answer via API: D", None),
]


@pytest.mark.parametrize(("answer", "choice"), [*LETTER_CASES, *STATEMENT_CASES, *TEXT_CASES])
def test_vlmevalkit_takes_a_lone_letter_then_a_statement_then_the_text_of_one_option(
    answer: str, choice: str | None
) -> None:
    assert mmbench_choice(answer, PETS) == choice


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("Sorry, I can't help with images of people yet. B", "Z"),
        ("Well: I can't process this file.", "Z"),
        ("I'm sorry, but without the image provided I guess a dog", "Z"),
        ("Cannot determine the answer", "Z"),
        ("cannot determine the answer", None),
        ("Z", "Z"),
        ("Z. Too dark, whatever one tries to see in it", "Z"),  # anywhere
        ("Z or B", "B"),
        ("Z, not A or B", None),
        ("Failed to obtain answer via API. Cannot determine the answer", None),
    ],
)
def test_vlmevalkit_calls_a_refusal_z(answer: str, choice: str | None) -> None:
    assert mmbench_choice(answer, PETS) == choice


def test_letters_and_statements_count_only_for_options_that_the_question_has() -> None:
    two = {"A": "a red ball", "B": "a blue ball"}
    assert mmbench_choice("C", two) is None
    assert mmbench_choice("the answer is c, red ball or not", two) is None
    assert mmbench_choice("C, no, B", two) == "B"
    assert mmbench_choice("the answer is D: a blue ball", two) == "B"  # goes on to the text
    assert mmbench_choice("C", {"A": "x", "B": "y", "C": "a", "E": "z"}) == "C"
    assert mmbench_choice("E", {"A": "x", "E": "z"}) == "E"


def test_the_options_are_left_as_they_were() -> None:
    options = dict(PETS)
    mmbench_choice("a bird", options)
    assert options == PETS


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B", "B"),
        ("B is what I would say here", "B"),  # anywhere
        ("A is it", "A"),
        ("A very small thing", None),  # "A" among more than three words is an article
        ("A very small horse", "C"),
        ("A thing: it is (B) here", "B"),  # vetoed, goes on to the marks
        ("B.", "B"),
        ("B,", "B"),
        ("B:", "B"),
        ("B)", "B"),
        ("B). So it is", "B"),
        ("(B)", "B"),
        ("(B).", "B"),
        (":B", "B"),
        (":B,", "B"),
        (":B.", "B"),
        (":B)", "B"),
        (":B).", "B"),
        ("A. or B, perhaps", "A"),  # the period comes first
        ("A. B. C)", "C"),
        ("(B", None),
        ("*B*", None),
        ("#B", None),
        ("A or B", None),
        ("E", "E"),  # A to E, whatever the options are
        ("E.", "E"),
        ("Z", None),
        ("Cannot determine the answer", None),
        ("the answer is b", None),
        ("x" * 100 + " dog", "B"),  # however long
        ("dog or cat", None),
        ("Failed to obtain answer via API B", None),
        ("Failed to obtain answer via API B dog", "B"),
    ],
)
def test_legacy2023_takes_a_bare_letter_then_one_with_marks_then_the_text_of_one_option(
    answer: str, choice: str | None
) -> None:
    assert mmbench_choice(answer, PETS, protocol="legacy2023") == choice


def test_an_unknown_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gpt4'.*'vlmevalkit'.*'legacy2023'"):
        mmbench_choice("A", PETS, protocol="gpt4")


def rotated(
    base: int, options: list[str], gold: int, predictions: list[Any], l2: str = "CP", category: str = "scene"
) -> list[dict[str, Any]]:
    """The rows of a question as in the TSV: options moved left by one in each, the answer with them."""
    rows = []
    for shift, prediction in enumerate(predictions):
        texts = options[shift:] + options[:shift]
        row = {"index": base + shift * 1_000_000, "question": "?", "answer": "ABCD"[(gold - shift) % len(options)]}
        row |= dict(zip("ABCD", [*texts, "", math.nan], strict=False))
        rows.append(row | {"prediction": prediction, "l2-category": l2, "category": category, "split": "dev"})
    return rows


def test_a_question_counts_only_if_every_rotation_is_right() -> None:
    pets = ["cat", "dog", "horse", "bird"]
    rows = [
        *rotated(7, pets, 1, ["B", "A. dog", "(D)", "a dog"]),  # all right
        *rotated(3, pets, 1, ["B", "A", "D", "D"], l2="AR", category="color"),  # a wrong one
        *rotated(5, pets, 1, ["B", "A", "D", "I cannot say"], category="color"),  # an undecided one
        *rotated(1, pets, 1, ["C", "A", "D", "C"]),  # only the first wrong
        *rotated(2, ["yes", "no"], 0, ["A", "Cannot determine the answer"]),  # refusal
        *rotated(4, ["yes", "no"], 0, ["yes", "B"]),
    ]
    expected = {
        "accuracy": 2 / 6,
        "groups": {1: 0, 2: 0, 3: 0, 4: 1, 5: 0, 7: 1},
        "per_l2": {"AR": 0.0, "CP": 2 / 5},
        "per_category": {"color": 0.0, "scene": 2 / 4},
        "first_pass": 5 / 6,
    }
    assert mmbench_circular(rows) == expected
    assert mmbench_circular(rows[::-1]) == expected


def test_category_and_group_index_come_from_the_base_row_and_the_given_column() -> None:
    rows = rotated(8, ["yes", "no"], 0, ["A", "B"])
    rows[1] |= {"category": "other", "index": 30}
    grouped = [row | {"g_index": 8} for row in rows]
    assert mmbench_circular(grouped)["per_category"] == {"scene": 1.0}
    assert mmbench_circular(grouped)["groups"] == {8: 1}
    assert mmbench_circular(rows)["groups"] == {8: 1, 30: 1}


def test_rows_read_as_text_and_empty_predictions_score_alike() -> None:
    rows = rotated(8, ["yes", "no"], 0, ["A", "B"])
    as_text = [{name: str(cell) for name, cell in row.items() if name not in "CD"} for row in rows]
    assert mmbench_circular(as_text) == mmbench_circular(rows)
    for empty in ("", None, math.nan):
        assert mmbench_circular(rotated(8, ["yes", "nan"], 1, [empty, "B"]))["groups"] == {8: 0}


def test_options_that_are_missing_cannot_be_chosen() -> None:
    assert mmbench_circular(rotated(8, ["yes", "no"], 0, ["A, not C", "B"]))["accuracy"] == 1.0
    assert mmbench_circular(rotated(8, ["None", "NA"], 0, ["none", "B"]))["accuracy"] == 1.0


@pytest.mark.parametrize("missing", ["", None, math.nan])
def test_an_option_that_the_question_lacks_is_neither_a_letter_nor_a_text(missing: Any) -> None:
    options = {"A": "banana", "B": "none", "C": missing}
    assert mmbench_choice("It is a banana", options) == "A"  # "nan" is in it, and so is ""
    assert mmbench_choice("none", options) == "B"
    assert mmbench_choice("C", options) is None
    assert mmbench_choice("it is a banana", options, "legacy2023") == "A"


def test_scores_follow_the_protocol_of_the_choice() -> None:
    rows = rotated(8, ["yes", "no"], 0, ["#A", "B"])
    assert mmbench_circular(rows)["accuracy"] == 1.0
    assert mmbench_circular(rows, protocol="legacy2023")["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        (rotated(8, ["yes", "no"], 0, ["A", "B"])[1:], "base row.*index 8"),
        (rotated(8, ["yes", "no"], 0, ["A"]) * 2, "two rows of index 8"),
        ([row | {"answer": math.nan} for row in rotated(8, ["yes", "no"], 0, ["A"])], "row 8 has no answer"),
        ([{"index": 8, "A": "yes", "answer": "A"}], "row 8 has no prediction"),
        ([{"index": "8b", "answer": "A", "prediction": "A"}], "index .* whole number, got '8b'"),
        ([{"answer": "A", "prediction": "A"}], "index .* whole number, got None"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_by_index(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmbench_circular(rows)
