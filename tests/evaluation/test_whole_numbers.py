"""Whole numbers of tables as pandas writes them where a cell is empty: 5.0 for 5."""

import pytest

from owl2.data.annotations import Row


@pytest.mark.parametrize(("value", "number"), [(5, 5), (5.0, 5), (-3.0, -3), (0.0, 0)])
def test_a_number_may_be_written_with_an_empty_fraction(value: float, number: int) -> None:
    assert Row({"index": value}, "f, record 1").integer("index") == number
    assert Row({"index": str(value)}, "f, record 1").integer_in_text("index") == number


@pytest.mark.parametrize("value", [5.5, "5.5", "x", "5.0.0", "1e3", "", float("nan"), float("inf"), True])
def test_anything_else_is_an_error_with_its_place(value: object) -> None:
    row = Row({"index": value}, "f, record 1")
    with pytest.raises(ValueError, match="f, record 1: 'index' is "):
        row.integer_in_text("index") if isinstance(value, str) else row.integer("index")
