"""What the first rank reads one tensor at a time is the model that is built in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize
from torch.distributed.tensor import DTensor
from training.rank_programs import HostMemory
from training.tiny_recipes import recipe_of, run_recipe
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from owl2 import Owl2ForConditionalGeneration
from owl2.checkpoints.adapter_folder import AdapterFolder
from owl2.checkpoints.small_language_model import SMALLEST_VOCABULARY, train_tokenizer
from owl2.training.adapters.lora import save_adapter
from owl2.training.data.stage_data import open_stage_data
from owl2.training.distributed.broadcast_weights import Weights, broadcast_weights
from owl2.training.distributed.mesh import Mesh, build_mesh, process_group
from owl2.training.distributed.parallelize import parallelize
from owl2.training.model.build import (
    apply_trainable,
    build_model,
    can_stay_stored,
    open_stored_model,
)
from owl2.training.model.initial import InitialState, load_initial_state
from owl2.training.recipe.optimization import TrainSettings
from owl2.training.recipe.schema import Recipe
from owl2.training.run_directory import RunDirectory


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


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in bfloat16 with most of its weights in the layers of the decoder."""
    out = tmp_path_factory.mktemp("first") / "run"
    sizes = ("hidden_size=128", "intermediate_size=256", "num_hidden_layers=12")
    wide = [f"model.initialize.language_model.{size}" for size in sizes]
    run_recipe(data, "pretrain", out, "schedule.steps=1", "precision=bf16", *wide)
    return out / "checkpoint"


@pytest.fixture
def from_checkpoint(data: Path, checkpoint: Path, tmp_path: Path) -> Recipe:
    """A recipe that begins with a checkpoint, at another resolution."""
    start = f"model.checkpoint={checkpoint}"
    return recipe_of(data, "instruct", tmp_path / "run", start, "data.image_size=24", "schedule.steps=1")


def with_lora(recipe: Recipe, **settings: Any) -> Recipe:
    changed = {"parts": ["vision_encoder", "abstractor"], "lora": {"rank": 2, "alpha": 4}, **settings}
    return recipe.model_copy(update={"train": TrainSettings(**changed)})


def built(recipe: Recipe) -> Owl2ForConditionalGeneration:
    """The whole model in memory, as transformers reads a checkpoint and as `initialize` makes a new one."""
    if recipe.model.checkpoint is None:
        return build_model(recipe)[0]
    torch.manual_seed(recipe.seed)
    model = Owl2ForConditionalGeneration.from_pretrained(recipe.model.checkpoint, dtype=torch.float32)
    model.set_image_size(recipe.data.image_size)
    return model


def assert_read_as_built(recipe: Recipe) -> None:
    assert can_stay_stored(recipe)
    model = built(recipe)
    generator = torch.get_rng_state()
    stored, processor = open_stored_model(recipe)
    assert torch.equal(torch.get_rng_state(), generator), "what is drawn next is the same too"
    expected = dict(model.named_parameters())
    assert stored.tensors.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(stored.tensors[name].read(), expected[name])] == []
    assert stored.config.to_diff_dict() == model.config.to_diff_dict()
    assert stored.generation_config.to_dict() == model.generation_config.to_dict()
    assert processor.num_image_tokens == model.config.tokens_per_image
    assert processor.image_processor.size["height"] == recipe.data.image_size


def test_a_model_from_stored_parts(from_parts: Recipe) -> None:
    assert_read_as_built(from_parts)


def test_a_model_from_a_checkpoint_at_another_resolution(from_checkpoint: Recipe) -> None:
    assert_read_as_built(from_checkpoint)


def test_small_models_are_made_in_memory(data: Path, tmp_path: Path) -> None:
    assert not can_stay_stored(recipe_of(data, "pretrain", tmp_path / "run"))


def began(recipe: Recipe) -> tuple[InitialState, Weights, Mesh]:
    """The initial state of a run that nothing is there of yet, in one process."""
    assert recipe.out is not None
    mesh, out = build_mesh(torch.device("cpu")), Path(recipe.out)
    samples = open_stage_data(recipe, recipe.data.sources, out)
    state, weights = load_initial_state(recipe, RunDirectory(out), samples, torch.float32, False, mesh)
    assert weights is not None
    return state, weights, mesh


def assert_begins_with(recipe: Recipe, model: Owl2ForConditionalGeneration) -> None:
    generator = torch.get_rng_state()
    with process_group(60):
        state, weights, _ = began(recipe)
    assert torch.equal(state.rng_state, generator), "what is drawn next is the same too"
    expected = dict(model.named_parameters())
    assert any(".lora_A." in name and value.any() for name, value in expected.items())
    assert [name for name, value in expected.items() if not torch.equal(weights.pop(name), value)] == []


@pytest.mark.parametrize("targets", [{}, {"targets": ("q_proj", "vision_k_proj")}], ids=["all targets", "two targets"])
@pytest.mark.parametrize("source", ["from_parts", "from_checkpoint"])
def test_adapters_on_a_stored_model_begin_as_in_memory(
    source: str, targets: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("peft")
    recipe = with_lora(request.getfixturevalue(source), lora={"rank": 2, "alpha": 4, **targets})
    model = built(recipe)
    apply_trainable(model, recipe.train)
    assert_begins_with(recipe, model)


@pytest.mark.parametrize("size", [16, 24, 32], ids=["the base's", "the folder's", "another"])
def test_what_a_folder_holds_is_read_over_a_stored_model_as_in_memory(
    size: int, data: Path, from_checkpoint: Recipe, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    recipe, folder = with_lora(from_checkpoint), tmp_path / "folder"
    learned = built(recipe)
    apply_trainable(learned, recipe.train)
    randomize(learned)
    save_adapter(learned, folder)

    model_settings = recipe.model.model_copy(update={"adapter": str(folder)})
    data_settings = recipe.data.model_copy(update={"image_size": size})
    recipe = recipe.model_copy(update={"model": model_settings, "data": data_settings})
    model = built(recipe)
    apply_trainable(model, recipe.train)
    AdapterFolder(folder).write_into(model)
    model.set_image_size(size)
    assert_begins_with(recipe, model)


@pytest.mark.parametrize("quantization", [None, "int4"], ids=["LoRA", "QLoRA"])
def test_the_first_rank_holds_what_it_keeps_and_one_tensor_of_a_stored_model(
    quantization: str | None, from_checkpoint: Recipe
) -> None:
    pytest.importorskip("peft" if quantization is None else "bitsandbytes")
    recipe, dtype = with_lora(from_checkpoint, quantization=quantization), torch.bfloat16
    with process_group(60), HostMemory() as memory:
        state, weights, mesh = began(recipe)
        model = state.model(recipe, dtype)
        sizes = [4 * parameter.numel() for parameter in model.parameters()]
        parallelize(model, mesh, dtype)
        broadcast_weights(model, weights, mesh)
        shares = [value.to_local() if isinstance(value, DTensor) else value for value in model.parameters()]
        kept = sum(share.numel() * share.element_size() for share in shares)
        assert memory.peak < kept + 4 * max(sizes)
        assert memory.peak < (0.6 if quantization is None else 0.35) * sum(sizes)
