"""The loss of held-out samples is the model's, without dropout, and leaves the model in training mode."""

import json
from pathlib import Path

import pytest
import torch
from helpers import tiny_config, tiny_model
from training.tiny_recipes import recipe_of, run_recipe
from transformers import AutoModelForImageTextToText, AutoProcessor

from owl2.training.adapters.lora import apply_lora
from owl2.training.data.loader import empty_micro_batch
from owl2.training.distributed.mesh import build_mesh, process_group
from owl2.training.monitoring.validation_loss import ValidationSet, validation_loss
from owl2.training.stages import select_trainable
from owl2.training.step import BatchPreparation


def loss_of_twelve(data: Path, out: Path) -> float:
    """Mean loss over the tokens of the held-out samples, one by one, with the model that the run left."""
    from owl2.training.data.stage_data import open_stage_data

    recipe = recipe_of(data, "instruct", out)
    samples = open_stage_data(recipe, {"held": next(iter(recipe.data.sources.values()))}, out)
    model = AutoModelForImageTextToText.from_pretrained(out / "checkpoint")
    processor = AutoProcessor.from_pretrained(out / "checkpoint")
    total, count = 0.0, 0
    for draw in samples.take(12):
        records, number = samples.records.find(draw)
        conversation = records[number]
        encoded = processor.encode_conversation(conversation.messages, images=list(conversation.images) or None)
        labels = torch.tensor(encoded["labels"])
        batch = {name: torch.tensor([encoded[name]]) for name in ("input_ids", "mm_token_type_ids")}
        logits = model(**batch, pixel_values=encoded.get("pixel_values")).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits.float(), labels[1:], reduction="none")
        total, count = total + losses.sum().item(), count + int((labels[1:] != -100).sum())
    return total / count


def test_no_dropout_is_in_it_and_training_goes_on_in_training_mode() -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)  # some adapters and masks change the loss by less than the control asks for
    config = tiny_config()
    config.text_config.attention_dropout = config.vision_config.attention_dropout = 0.5
    model = tiny_model(config)
    select_trainable(model, ("decoder_vision",))
    apply_lora(model, rank=4, alpha=8, dropout=0.5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:  # at first they are 0, and dropout in front of them changes nothing
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    ids = torch.arange(5, 45).view(2, 20)
    batch = {"input_ids": ids, "labels": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        wanted = model.eval()(**batch).loss.item()
        model.train()
        assert model(**batch).loss.item() != pytest.approx(wanted, rel=1e-4)
    with process_group(60) as device:
        preparation = BatchPreparation(device, (0.5,) * 3, (0.5,) * 3, empty_micro_batch(0))
        found = validation_loss(model, ValidationSet([batch], 38, 2), preparation, build_mesh(device))
    assert found.loss == pytest.approx(wanted, rel=1e-5) and found[1:] == (38, 2)
    assert all(module.training for module in model.modules())


def test_held_out_loss_is_the_loss_of_the_samples_alone(data: Path, tmp_path: Path) -> None:
    sources = f"{{held: {{format: records, path: {data / 'records.jsonl'}}}}}"
    overrides = ("evaluate.every=2", f"evaluate.sources={sources}", "evaluate.samples=12", "schedule.steps=2")
    run_recipe(data, "instruct", tmp_path / "run", *overrides, "data.packing.enabled=true")
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert (line["step"], line["samples"]) == (2, 12)
    assert line["loss"] == pytest.approx(loss_of_twelve(data, tmp_path / "run"), rel=1e-5)
