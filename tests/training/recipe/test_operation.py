"""What a run measures while it trains: benchmarks, splits and limits that exist."""

from pathlib import Path
from typing import Any

import pytest
from training.tiny_recipes import refusal_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate": {"every": 5}}, "needs sources of held-out samples, or tasks"),
        ({"evaluate": {"tasks": {"easyvqa": {}}}}, "evaluate.tasks: there is no task 'easyvqa': did you mean easy"),
        ({"evaluate": {"tasks": {"gqa": {"split": "tset"}}}}, "gqa has no split 'tset': choose among"),
        ({"evaluate": {"tasks": {"pope": {"limit": 0}}}}, "evaluate.tasks.pope.limit: Input should be greater"),
        ({"evaluate": {"tasks": {"mmvet": {}}}}, "can only be scored by a judge, which is for the end"),
    ],
)
def test_a_wrong_setting_of_evaluation_is_refused_in_words(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(directory, **settings)
