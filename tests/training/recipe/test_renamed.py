"""Former names of keys and parts."""

from pathlib import Path
from typing import Any

import pytest
from training.tiny_recipes import changed_recipe

from owl2.training.recipe.yaml_file import load_recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"clip": 1}}, "the key optimizer.clip is now called optimizer.max_grad_norm"),
        ({"batch": {"micro_size": 4}}, "the key batch.micro_size is now called batch.micro_batch_size"),
        ({"train": {"parts": ["abstractor", "vision_half"]}}, "the part vision_half is now called decoder_vision"),
        ({"train": {"parts": ["shared"]}}, "the part shared is now called decoder_shared"),
    ],
)
def test_a_former_name_is_answered_with_the_present_one(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(changed_recipe(directory, **settings))
