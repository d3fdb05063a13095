"""What a recipe's model can take is known before it is built."""

from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_config
from training.tiny_recipes import recipe_of

from owl2.training.model.build import (
    check_max_length,
)
from owl2.training.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (None, 64),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, 128),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}, 256),
    ],
    ids=["plain", "linear", "yarn"],
)
def test_samples_may_be_as_long_as_the_context_which_rotary_positions_may_stretch(
    rope: dict[str, Any] | None, context: int, data: Path, tmp_path: Path
) -> None:
    config = tiny_config(max_position_embeddings=64, rope_parameters=rope)

    def of_length(length: int) -> Recipe:
        return recipe_of(data, "pretrain", tmp_path / "run", f"data.max_length={length}")

    check_max_length(of_length(context), config)
    with pytest.raises(ValueError, match=rf"data.max_length {context + 1} is above .*, {context} tokens"):
        check_max_length(of_length(context + 1), config)
