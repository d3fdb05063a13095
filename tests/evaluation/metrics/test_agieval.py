"""Parsing of AGIEval's answers, against cases worked out by hand from the official zero-shot rules."""

import pytest

from owl2.evaluation.metrics.agieval import AGIEVAL_DATASETS, agieval_answer

MULTIPLE = {"jec-qa-kd", "jec-qa-ca", "gaokao-physics"}
CLOZE = {"gaokao-mathcloze", "math"}


def test_all_21_data_sets_are_known() -> None:
    assert len(AGIEVAL_DATASETS) == 21
    assert {name for name, kind in AGIEVAL_DATASETS.items() if kind == "multiple"} == MULTIPLE
    assert {name for name, kind in AGIEVAL_DATASETS.items() if kind == "cloze"} == CLOZE


@pytest.mark.parametrize("dataset", sorted(set(AGIEVAL_DATASETS) - MULTIPLE - CLOZE))
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" C.", "C"),
        ("(D) since B is wrong", "D"),
        ("Because of this, D", "B"),  # any capital counts
        ("The answer is G, then C", "C"),  # G is no option, and neither is T
        ("我们应选择B", "B"),
        ("a b c", ""),
        ("", ""),
    ],
)
def test_a_single_choice_is_the_first_letter_from_a_to_f(dataset: str, text: str, expected: str) -> None:
    assert agieval_answer(text, dataset) == expected


@pytest.mark.parametrize("dataset", sorted(MULTIPLE))
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(A)(C)", ["A", "C"]),
        ("ABD", ["A", "B", "D"]),
        ("A、C。选A", ["A", "C", "A"]),
        ("((B)) G", ["B"]),
        ("none", []),
    ],
)
def test_a_multiple_choice_is_every_letter_from_a_to_f(dataset: str, text: str, expected: list[str]) -> None:
    assert agieval_answer(text, dataset) == expected


@pytest.mark.parametrize("dataset", sorted(CLOZE))
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The last box, and nothing else where there is a box.
        ("so \\boxed{1} and \\boxed{\\frac{1}{2}} of $3$", "\\frac{1}{2}"),
        ("\\boxed{x = y =  4 }", "4 "),
        ("\\boxed{}", ""),
        ("\\boxed{1} then \\boxed 2, $3$", None),
        ("\\boxed{1} then \\boxed{2, 3", None),
        ("\\fbox{7} is 8", "8"),
        # What dollar signs enclose on the last line that has two of them, from the first to the last.
        ("it is $x^2$.", "x^2"),
        ("$1$\n$2$\nor 3", "2"),
        ("between $1$ and $2$", "1$ and $2"),
        ("$x = 5$ or 6", "5"),
        ("$1\n2$ 3", "3"),
        ("$$ 4", "4"),
        ("$ x =$", "$"),  # empty, so the text's own equals sign decides
        # After the last equals sign, final full stops and a literal backslash-n removed.
        ("x = 3 = y = 7..", "7"),
        ("x = 7\\nThe next = 8\\nProblem", "8"),
        ("x = 7\nnext", "7\nnext"),
        ("x =", ""),
        # The last number: no sign, no thousands separator, none that is glued to a word.
        ("first 3, then -12.5 metres", "12.5"),
        ("1,234", "234"),
        ("costs $15 today", "$15"),
        ("4 in 2nd place", "4"),
        ("answer 5.", "5"),
        ("unknown", None),
        ("", None),
        # Announcements.
        ("$1$ and 2. The answer is therefore 3 = 4", "4"),
        ("答案是 1 , 答案是 x", "1"),  # it begins with one: only that is removed
        ("$9$ so 答案是 x = 1, 答案是 2", "2"),
    ],
)
def test_a_cloze_answer_is_boxed_or_in_dollars_or_after_equals_or_a_number(
    dataset: str, text: str, expected: str | None
) -> None:
    assert agieval_answer(text, dataset) == expected


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'lsat_ar'.*lsat-ar.*sat-math"):
        agieval_answer("A", "lsat_ar")
