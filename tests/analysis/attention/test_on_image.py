"""Attention of an answer on the image, restated with plain matrix products."""

import pytest
import torch
from helpers import IMAGE, sample, tiny_config, tiny_model

from owl2.analysis.attention.on_image import attention_on_image


def test_attention_on_an_image_is_the_decoders_times_the_abstractors() -> None:
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 2, IMAGE, 4], seed=0)
    found = attention_on_image(model, inputs, image=1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True)
    first = 3 + 4 + 2  # text, the first image of 3 queries and its end, text
    expected = torch.zeros(16)
    for layer in outputs.attentions:
        for head in layer[0]:
            for query in range(3):
                weight = head[-1, first + query]
                expected += weight * outputs.abstractor_attentions[-1][1, :, query, -16:].mean(0)
    torch.testing.assert_close(found.on_image, (expected / expected.sum()).view(4, 4))
    rows = inputs["input_ids"][0] == model.config.image_token_id
    shares = torch.stack([layer[0, :, -1][:, rows].sum(1).mean() for layer in outputs.attentions])
    torch.testing.assert_close(found.per_layer, shares)


def test_the_models_attention_implementation_is_as_before() -> None:
    model = tiny_model(attention="sdpa")
    attention_on_image(model, sample(model.config, [2, IMAGE, 2], seed=1))
    assert model.config._attn_implementation == "sdpa"


def test_an_image_that_is_not_there_is_refused_with_both_numbers() -> None:
    model = tiny_model(tiny_config())
    with pytest.raises(ValueError, match="image 1, but the prompt has 1"):
        attention_on_image(model, sample(model.config, [2, IMAGE, 2], seed=1), image=1)


def test_the_processor_may_give_visual_tokens_an_id_of_its_own() -> None:
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 2], seed=2)
    is_vision = inputs["input_ids"] == model.config.image_token_id
    # As of a tokenizer that is smaller than the embedding (Qwen2): its next id lies inside.
    marked = {
        **inputs,
        "input_ids": inputs["input_ids"].masked_fill(is_vision, 96),
        "mm_token_type_ids": is_vision.long(),
    }
    for found, expected in zip(attention_on_image(model, marked), attention_on_image(model, inputs), strict=True):
        torch.testing.assert_close(found, expected)
