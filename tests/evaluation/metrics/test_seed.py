"""SEED-Bench's letters."""

import pytest

from owl2.evaluation.metrics.seed import seed_choice


@pytest.mark.parametrize(
    ("prediction", "choice"),
    [
        ("B", "B"),
        ("b", "B"),
        (" \nC. A red car", "C"),
        ("a dog", "A"),
        ("Dogs", "D"),
        ("(A)", None),
        ("E", None),
        ("The answer is A", None),
        ("", None),
        ("  ", None),
    ],
)
def test_first_char_reads_the_first_character_in_either_case(prediction: str, choice: str | None) -> None:
    assert seed_choice(prediction) == choice
    assert seed_choice(prediction, protocol="first_char") == choice


@pytest.mark.parametrize(
    ("prediction", "choice"),
    [("A", "A"), ("D", "D"), ("a", None), ("A ", None), ("A.", None), ("ABC", None), ("E", None), ("", None)],
)
def test_exact_takes_the_bare_capital_letter_only(prediction: str, choice: str | None) -> None:
    assert seed_choice(prediction, protocol="exact") == choice


def test_an_unknown_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'letter'.*'first_char' and 'exact'"):
        seed_choice("A", protocol="letter")
