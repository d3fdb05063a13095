"""The table of what trains counts every parameter once, as it is."""

import io

import pytest
import torch
from helpers import tiny_config, tiny_model
from rich.console import Console

from owl2.training.adapters.lora import apply_lora
from owl2.training.adapters.quantize import quantize_frozen_projections
from owl2.training.model.parameter_table import as_json, as_rich, trainable_table
from owl2.training.recipe.optimization import OptimizerSettings
from owl2.training.stages import PRETRAINING_PARTS, select_trainable

OPTIMIZER = OptimizerSettings(learning_rate=1e-3, weight_decay=0.1, vision_layer_decay=0.5)


def test_every_parameter_is_in_one_row_with_what_trains_and_decays_of_it():
    model = tiny_model()
    select_trainable(model, PRETRAINING_PARTS)
    rows = {row.part: row for row in trainable_table(model, OPTIMIZER)}
    assert sum(row.parameters for row in rows.values()) == sum(each.numel() for each in model.parameters())
    trained = [each for each in model.parameters() if each.requires_grad]
    assert sum(row.trained for row in rows.values()) == sum(each.numel() for each in trained)
    assert {part for part, row in rows.items() if row.trained} == set(PRETRAINING_PARTS)
    encoder, layers = rows["vision_encoder"], model.config.vision_config.num_hidden_layers
    assert encoder.highest_rate == 1e-3 and encoder.lowest_rate == pytest.approx(1e-3 * 0.5**layers)
    assert 0 < encoder.decayed < encoder.trained  # vectors do not decay
    assert all(
        (row.weight_decay, row.decayed, row.highest_rate) == (0, 0, 0) for row in rows.values() if not row.trained
    )
    assert as_json(list(rows.values()))[0]["part"] in rows


def test_adapters_have_a_row_of_their_own():
    pytest.importorskip("peft")
    model = tiny_model()
    select_trainable(model, ("abstractor",))
    count = apply_lora(model, rank=2, alpha=4)
    (row,) = [row for row in trainable_table(model, OPTIMIZER) if row.part == "lora"]
    assert row.parameters == row.trained == count


def test_it_counts_weights_and_not_the_bytes_they_are_packed_in():
    pytest.importorskip("bitsandbytes")
    model, full = (tiny_model(tiny_config(intermediate_size=128)) for _ in range(2))
    select_trainable(model, ("vision_encoder", "abstractor", "decoder_vision"))
    quantize_frozen_projections(model, torch.float32)
    rows = trainable_table(model, OptimizerSettings(learning_rate=1e-3))
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in full.parameters())


def test_a_terminal_shows_what_is_frozen_and_the_sums():
    model = tiny_model()
    select_trainable(model, ("abstractor",))
    rows, printed = trainable_table(model, OPTIMIZER), io.StringIO()
    Console(file=printed, width=120).print(as_rich(rows, "what trains"))
    lines = {line.strip("│ ").split("│")[0].strip(): line for line in printed.getvalue().splitlines() if "│" in line}
    assert "frozen" in lines["vision encoder"] and "frozen" not in lines["abstractor"]
    total, trained = sum(row.parameters for row in rows), sum(row.trained for row in rows)
    assert f"{total:,}" in lines["all"] and f"{trained:,}" in lines["all"]
