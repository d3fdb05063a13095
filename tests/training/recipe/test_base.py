"""What all sections have in common: finite numbers, and values that stay."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from training.tiny_recipes import refusal_of

from owl2.training.recipe.yaml_file import load_recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"learning_rate": float("inf")}}, "optimizer.learning_rate: Input should be a finite number"),
        ({"limits": {"spike_factor": float("nan")}}, "limits.spike_factor: Input should be a finite number"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_its_key(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(directory, **settings)


def test_values_do_not_change_after_loading(directory: Path) -> None:
    recipe = load_recipe(directory / "pretrain.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optimizer.learning_rate = 1.0  # type: ignore[misc]
