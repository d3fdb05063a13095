"""What the first rank reads one tensor at a time is the model that is built in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_config
from training.tiny_recipes import recipe_of, run_recipe
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from owl2.checkpoints.small_language_model import SMALLEST_VOCABULARY, train_tokenizer
from owl2.training.model.build import build_model, can_stay_stored, check_max_length, open_stored_model
from owl2.training.recipe.schema import Recipe


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=SMALLEST_VOCABULARY)).save_pretrained(folder / "llama")
    train_tokenizer(["a"], SMALLEST_VOCABULARY).save_pretrained(folder / "llama")
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder / "clip")
    return folder


@pytest.fixture
def from_parts(parts: Path, data: Path, tmp_path: Path) -> Recipe:
    """A recipe that makes its model from stored parts, at another resolution than the vision encoder's."""
    recipe = recipe_of(data, "pretrain", tmp_path / "run")
    assert recipe.model.initialize is not None
    changes = {"language_model": str(parts / "llama"), "vision_encoder": str(parts / "clip"), "vision": None}
    initial = recipe.model.initialize.model_copy(update=changes)
    settings = recipe.data.model_copy(update={"image_size": 32})
    return recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"initialize": initial}), "data": settings}
    )


def assert_read_as_built(recipe: Recipe) -> None:
    assert can_stay_stored(recipe)
    model, processor = build_model(recipe)
    generator = torch.get_rng_state()
    stored, its_processor = open_stored_model(recipe)
    assert torch.equal(torch.get_rng_state(), generator), "what is drawn next is the same too"
    expected = dict(model.named_parameters())
    assert stored.tensors.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(stored.tensors[name].read(), expected[name])] == []
    assert stored.config.to_diff_dict() == model.config.to_diff_dict()
    assert stored.generation_config.to_dict() == model.generation_config.to_dict()
    assert its_processor.to_dict() == processor.to_dict()


def test_a_model_from_stored_parts(from_parts: Recipe) -> None:
    assert_read_as_built(from_parts)


def test_a_model_from_a_checkpoint_at_another_resolution(data: Path, tmp_path: Path) -> None:
    run_recipe(data, "pretrain", tmp_path / "first", "schedule.steps=1")
    start = f"model.checkpoint={tmp_path / 'first' / 'checkpoint'}"
    assert_read_as_built(recipe_of(data, "pretrain", tmp_path / "run", start, "data.image_size=24"))


def test_adapters_and_small_models_are_made_in_memory(data: Path, tmp_path: Path, from_parts: Recipe) -> None:
    assert not can_stay_stored(recipe_of(data, "pretrain", tmp_path / "run"))
    train = from_parts.train.model_copy(update={"lora": object()})
    assert not can_stay_stored(from_parts.model_copy(update={"train": train}))


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
