"""Equality of LaTeX answers, against pairs worked out by hand from the rules of the MATH benchmark."""

import pytest

from owl2.evaluation.metrics.math_equivalence import math_equivalent

EQUAL = [
    pytest.param("5", "5", id="the same"),
    pytest.param("1\n0", "10", id="line break"),
    pytest.param("1 0", "10", id="space"),
    pytest.param("10,\\!000", "10,000", id="negative space"),
    pytest.param("\\\\frac{1}{2}", "\\frac{1}{2}", id="doubled backslash"),
    pytest.param("\\dfrac{1}{2}", "\\tfrac{1}{2}", id="sizes of fractions"),
    pytest.param("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})", id="sizes of brackets"),
    pytest.param("90^\\circ", "90", id="degrees"),
    pytest.param("90^{\\circ}", "90", id="degrees in braces"),
    pytest.param("\\$18.90", "18.90", id="escaped dollar"),
    pytest.param("50\\%", "50", id="escaped percent"),
    pytest.param("30 \\text{ cm}^2", "30", id="unit"),
    pytest.param(".5x", "0.5x", id="leading point"),
    pytest.param("3 .5", "3 0.5", id="point after a space"),
    pytest.param("x^{.5}", "x^{0.5}", id="point after a brace"),
    pytest.param("x=5", "5", id="name of the unknown"),
    pytest.param("x =5", "5", id="name of the unknown and a space"),
    pytest.param("\\sqrt3", "\\sqrt{3}", id="root without braces"),
    pytest.param("\\sqrt32", "\\sqrt{3}2", id="root takes one character"),
    pytest.param("\\sqrt 3", "\\sqrt{}3", id="root takes the space"),
    pytest.param("\\frac12", "\\frac{1}{2}", id="fraction without braces"),
    pytest.param("\\frac1{72}", "\\frac{1}{72}", id="fraction with the second braces"),
    pytest.param("\\frac123", "\\frac{1}{2}3", id="fraction takes two characters"),
    pytest.param("\\frac12+\\frac34", "\\frac{1}{2}+\\frac{3}{4}", id="two fractions"),
    pytest.param("0.5", "\\frac{1}{2}", id="one half"),
    pytest.param(".5", "1/2", id="one half without a zero"),
    pytest.param("2/3", "\\frac{2}{3}", id="slash"),
    pytest.param("-2/3", "\\frac{-2}{3}", id="slash after a negative number"),
    pytest.param("y=2/3", "\\frac23", id="several rules"),
    pytest.param("", "\n", id="nothing left"),
    pytest.param("\\sqrt", "\\sqrt", id="rules not applicable, but the same text"),
    pytest.param(None, None, id="no answer in both"),
]

DIFFERENT = [
    pytest.param("5", "6", id="other number"),
    pytest.param("\\frac{2}{4}", "\\frac{1}{2}", id="nothing is computed"),
    pytest.param("0.25", "\\frac{1}{4}", id="only one half is known as a decimal"),
    pytest.param("5.0", "5", id="decimals of an integer"),
    pytest.param("1,000", "1000", id="thousands separator"),
    pytest.param("50%", "50", id="bare percent"),
    pytest.param("$5", "5", id="bare dollar"),
    pytest.param("30\\text{cm}", "30", id="unit without its space"),
    pytest.param("30 cm", "30", id="unit outside of text"),
    pytest.param("\\frac{72}1", "\\frac{72}{1}", id="fraction with the first braces only"),
    pytest.param("\\frac12+\\frac1", "\\frac{1}{2}+\\frac1", id="an unfinished fraction undoes those before it"),
    pytest.param("x  =5", "5", id="three characters before the equals sign"),
    pytest.param("ab=5", "b=5=", id="two equals signs"),
    pytest.param("x=y=5", "5", id="a chain of equations"),
    pytest.param("a/b", "\\frac{a}{b}", id="slash between letters"),
    pytest.param("+2/3", "\\frac{2}{3}", id="slash after a plus sign"),
    pytest.param("02/3", "\\frac{2}{3}", id="slash after a leading zero"),
    pytest.param("-0/3", "\\frac{-0}{3}", id="slash after minus zero"),
    pytest.param("1/2/3", "\\frac{1}{2}/3", id="two slashes"),
    pytest.param("3\\text{ m}4\\text{ s}", "3", id="two units: compared as written"),
    pytest.param("\\sqrt", "\\sqrt\n", id="a root of nothing: compared as written"),
    pytest.param("2\\frac", "2 \\frac", id="a fraction of nothing: compared as written"),
    pytest.param("", None, id="no answer and an empty one"),
]


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_answers_that_differ_in_writing_are_equal(first: str | None, second: str | None) -> None:
    assert math_equivalent(first, second) is True
    assert math_equivalent(second, first) is True


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_answers_that_the_rules_do_not_unite_are_different(first: str | None, second: str | None) -> None:
    assert math_equivalent(first, second) is False
    assert math_equivalent(second, first) is False
