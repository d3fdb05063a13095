"""The section of soft labels: the losses of DeQA-Score, by default in its proportions."""

from pathlib import Path

import pytest
from training.tiny_recipes import recipe_of, refusal_of


def test_an_empty_section_has_the_weights_of_the_published_training(directory: Path) -> None:
    quality = recipe_of(directory, "instruct", directory / "run", "quality={}").quality
    assert quality is not None
    assert (quality.level_weight, quality.next_token_weight, quality.fidelity_weight) == (1.0, 0.05, 1.0)


@pytest.mark.parametrize("key", ["level_weight", "next_token_weight", "fidelity_weight"])
def test_a_weight_below_zero_is_refused_by_its_key(directory: Path, key: str) -> None:
    wanted = f"quality.{key}: Input should be greater than or equal to 0"
    assert wanted in refusal_of(directory, stage="instruct", quality={key: -1})


def test_it_is_for_instructions_alone(directory: Path) -> None:
    assert "quality compares the samples of a batch" in refusal_of(directory, quality={})
