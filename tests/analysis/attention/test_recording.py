"""Attention of chosen positions, against the probabilities that eager attention gives."""

from typing import Any

import pytest
import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from owl2.analysis.attention.recording import decoder_attention


def eager(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """[L, B, H, S, T] of a model set to eager attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return torch.stack(attentions)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_rows_are_those_of_eager_attention_whatever_the_model_uses(implementation):
    model = tiny_model(attention=implementation)
    inputs = sample(model.config, [3, IMAGE, 5], seed=0)
    found = decoder_attention(model, inputs, positions=(2, -1))
    torch.testing.assert_close(found.weights, eager(model, inputs)[:, :, :, [2, -1]].mean(2))
    assert model.config.text_config._attn_implementation == implementation
    with torch.no_grad():
        torch.testing.assert_close(found.outputs.logits, model(**inputs).logits[:, [2, -1]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_gets_no_attention_in_a_batch(side):
    model = tiny_model()
    samples = [
        sample(model.config, parts, seed) for seed, parts in enumerate(([4, IMAGE, 2], [3], [IMAGE, 1, IMAGE, 6]))
    ]
    inputs = {key: value for key, value in batch(samples, side).items() if key != "labels"}
    length = inputs["input_ids"].shape[1]
    found = decoder_attention(model, inputs, positions=range(length)).weights
    real = inputs["attention_mask"].bool()
    expected = eager(model, inputs).mean(2)
    torch.testing.assert_close(found[:, real], expected[:, real])
    rows = found[:, real]  # [L, rows, T]
    padding = (~real)[real.nonzero()[:, 0]]  # [rows, T]
    assert rows[:, padding].abs().max() < 1e-6
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))


def test_chosen_layers_and_heads_alone_are_kept():
    config = tiny_config(num_attention_heads=4, num_key_value_heads=2)
    model = tiny_model(config)
    inputs = sample(config, [2, IMAGE, 3], seed=3)
    found = decoder_attention(model, inputs, layers=(-1,), heads=(1, 2))
    assert found.layers == [config.text_config.num_hidden_layers - 1]
    torch.testing.assert_close(found.weights[0], eager(model, inputs)[-1][:, [1, 2], -1:].mean(1))


def test_one_row_over_a_kept_cache_is_the_row_of_the_whole_sequence():
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 4], seed=1)
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :-1], pixel_values=inputs["pixel_values"], past_key_values=cache)
    found = decoder_attention(model, {"input_ids": inputs["input_ids"][:, -1:], "past_key_values": cache})
    torch.testing.assert_close(found.weights, eager(model, inputs)[:, :, :, -1:].mean(2))


def test_the_mean_over_a_long_prompt_is_that_of_its_rows():
    model = tiny_model(tiny_config(max_position_embeddings=512))
    inputs = sample(model.config, [200, IMAGE, 150], seed=5)  # more rows than are computed at a time
    rows = eager(model, inputs).mean(2)
    positions = range(3, inputs["input_ids"].shape[1])
    found = decoder_attention(model, inputs, positions, mean=True)
    torch.testing.assert_close(found.weights, rows[:, :, 3:].mean(2, keepdim=True))
    torch.testing.assert_close(decoder_attention(model, inputs, positions).weights, rows[:, :, 3:])


def test_adapters_are_seen():
    model = tiny_model()
    inputs = sample(model.config, [2, IMAGE, 3], seed=2)
    plain = decoder_attention(model, inputs).weights
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    found = decoder_attention(adapted, inputs).weights
    torch.testing.assert_close(found, eager(adapted.get_base_model(), inputs)[:, :, :, -1:].mean(2))
    assert (found - plain).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"positions": (40,)}, "there is no position 40"),
        ({"layers": (-3,)}, "there is no layer -3: the model has 2, from 0 to 1"),
        ({"heads": (9,)}, "there is no head 9"),
        ({"positions": ()}, "at least one position"),
    ],
)
def test_what_is_not_there_is_refused_with_both_numbers(asked, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        decoder_attention(model, sample(model.config, [2, IMAGE], seed=0), **asked)
    with pytest.raises(ValueError, match="got Linear"):
        decoder_attention(torch.nn.Linear(1, 1), {})
