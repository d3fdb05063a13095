"""The model at the first step comes from one place."""

from pathlib import Path
from typing import Any

import pytest
from training.tiny_recipes import refusal_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"adapter": "x"}}, "adapter goes on top of the model it was trained on: give that as checkpoint"),
        ({"model": {"checkpoint": None, "initialize": None}}, "give exactly one of checkpoint"),
    ],
)
def test_a_model_with_two_beginnings_or_none_is_refused_in_words(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(directory, **settings)
