"""Training that goes on from an adapter folder: as if it had never stopped, but for the optimizer's memory."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from training.tiny_recipes import curve, recipe_of, run_recipe, stop_after_two

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.checkpoints.adapters import load_adapter
from owl2.data.skipped import SkipCounter, SkipLimit
from owl2.training.data.loader import BatchingConfig, StageDataLoader
from owl2.training.data.stage_data import open_stage_data
from owl2.training.export import export
from owl2.training.optimizer import RecipeOptimizer, scheduled_learning_rate
from owl2.training.run import show
from owl2.training.stages import select_trainable

pytest.importorskip("peft")

PARTS = ("vision_encoder", "abstractor", "decoder_vision")
WIDE = ("model.initialize.language_model.hidden_size=64", "model.initialize.language_model.intermediate_size=64")
"""4 bits need rows of 64 weights."""

LORA = "train={parts: [vision_encoder, abstractor, decoder_vision], lora: {rank: 4, alpha: 8, dropout: 0}}"


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with adapters; its base is in `initial`."""
    out = tmp_path_factory.mktemp("first") / "run"
    run_recipe(data, "instruct", out, LORA, *WIDE)
    return out


def going_on(first: Path, *overrides: str) -> list[str]:
    return [f"model.checkpoint={first / 'initial'}", f"model.adapter={first / 'checkpoint'}", LORA, *overrides]


def test_training_goes_on_as_if_it_had_never_stopped(data: Path, first: Path, tmp_path: Path) -> None:
    run_recipe(data, "instruct", tmp_path / "run", *going_on(first))
    found = torch.tensor(curve(tmp_path / "run"))
    torch.testing.assert_close(found, torch.tensor(plain_training(data, first, tmp_path)), rtol=1e-5, atol=1e-6)
    assert found[0, 0] < curve(first)[0][0]  # the first batch is known by now


def plain_training(data: Path, first: Path, directory: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of the steps of `load_adapter(trainable=True)` and a new optimizer."""
    recipe = recipe_of(data, "instruct", directory)
    model = Owl2ForConditionalGeneration.from_pretrained(first / "initial")
    select_trainable(model, PARTS)
    load_adapter(model, first / "checkpoint", trainable=True).train()
    settings, schedule = recipe.optimizer, recipe.schedule
    optimizer = RecipeOptimizer(model, settings)
    samples = open_stage_data(recipe, recipe.data.sources, directory)
    processor = Owl2Processor.from_pretrained(first / "checkpoint")
    size = recipe.batch.global_batch_size
    stream = StageDataLoader(samples, processor, BatchingConfig(size), size, SkipCounter(SkipLimit(0.05)))
    images, found = processor.image_processor, []
    for step, batch in enumerate(stream.batches(schedule.steps)):
        ((inputs,), mean, std) = (batch.micro_batches, *map(torch.tensor, (images.image_mean, images.image_std)))
        pixels = (inputs["pixel_values"] / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        loss = model(**inputs | {"pixel_values": pixels}).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.set_learning_rate(scheduled_learning_rate(step, settings, schedule))
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


def test_a_step_that_learns_nothing_leaves_the_folder_it_began_with(data: Path, first: Path, tmp_path: Path) -> None:
    tiny = ("optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", "schedule={steps: 1, warmup_steps: 0}")
    run_recipe(data, "instruct", tmp_path / "run", *going_on(first, *tiny))
    before, after = (load_file(run / "checkpoint" / "adapter_model.safetensors") for run in (first, tmp_path / "run"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    export(tmp_path / "run", tmp_path / "exported", dtype=torch.float32)
    exported = load_file(tmp_path / "exported" / "adapter_model.safetensors")
    assert all(torch.equal(before[name], exported[name]) for name in before)


def test_another_resolution_than_that_of_the_folder_is_kept(data: Path, first: Path, tmp_path: Path) -> None:
    run_recipe(data, "instruct", tmp_path / "run", *going_on(first, "data.image_size=32", "schedule.steps=1"))
    tensors = load_file(tmp_path / "run" / "checkpoint" / "adapter_model.safetensors")
    (positions,) = (value for name, value in tensors.items() if name.endswith("position_embedding"))
    assert len(positions) == (32 // 8) ** 2 + 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lora.rank=2", "rank is 4 there and 2 in train.lora"),
        ("train.lora.alpha=9", "alpha is 8 there and 9 in train.lora"),
        (
            "train.lora.targets=[q_proj, vision_k_proj]",
            "targets is down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj there and q_proj, vision_k_proj",
        ),
        ("train.parts=[abstractor, decoder_vision]", "holds weights of vision_encoder that trained in full"),
    ],
)
def test_other_settings_than_those_of_the_folder_are_told_with_both_values(
    override: str, message: str, data: Path, first: Path, tmp_path: Path
) -> None:
    overrides = going_on(first, override)
    with pytest.raises(ValueError, match=message):
        run_recipe(data, "instruct", tmp_path / "run", *overrides)
    with pytest.raises(ValueError, match=message):
        show(recipe_of(data, "instruct", tmp_path / "run", *overrides), Console(file=io.StringIO()))


def test_dropout_may_change(data: Path, first: Path, tmp_path: Path) -> None:
    finished, _ = run_recipe(data, "instruct", tmp_path / "run", *going_on(first, "train.lora.dropout=0.5"))
    assert finished


def test_a_folder_that_is_not_there_is_assumed_in_a_dry_run_and_refused_in_a_run(
    data: Path, first: Path, tmp_path: Path
) -> None:
    overrides = going_on(first, "model.adapter=absent")
    printed = io.StringIO()
    show(recipe_of(data, "instruct", tmp_path / "run", *overrides), Console(file=printed, width=200))
    assert "absent was not found: new adapters are assumed" in printed.getvalue()
    with pytest.raises(ValueError, match="absent is not an adapter folder"):
        run_recipe(data, "instruct", tmp_path / "run", *overrides)


def test_an_adapter_without_its_base_or_without_lora_is_refused(data: Path, first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter goes on top of the model it was trained on: give that as checkpoint"):
        recipe_of(data, "instruct", tmp_path, LORA, f"model.adapter={first}")
    with pytest.raises(ValueError, match="model.adapter needs train.lora"):
        recipe_of(data, "instruct", tmp_path, *going_on(first, "train.lora=null"))


@pytest.mark.parametrize("quantization", ["null", "int4"], ids=["LoRA", "QLoRA"])
def test_a_run_that_continues_from_a_folder_resumes_without_it(
    quantization: str, data: Path, first: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft" if quantization == "null" else "bitsandbytes")
    folder = shutil.copytree(first / "checkpoint", tmp_path / "folder")
    overrides = going_on(first, f"model.adapter={folder}", f"train.quantization={quantization}")
    run_recipe(data, "instruct", tmp_path / "whole", *overrides)
    stop_after_two(data, "instruct", tmp_path / "run", *overrides)
    shutil.rmtree(folder)
    finished, printed = run_recipe(data, "instruct", tmp_path / "run", *overrides)
    assert finished and "resumes after step 2 of 3" in printed
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
