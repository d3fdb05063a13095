"""Attention of an answer on the image, restated with plain matrix products."""

import pytest
import torch
from helpers import IMAGE, sample, tiny_config, tiny_model

from owl2.analysis.attention.on_image import attention_on_image, patches_read


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


def test_a_rollout_follows_every_layer_of_the_abstractor() -> None:
    model = tiny_model()
    pixels = sample(model.config, [2, IMAGE], seed=3)["pixel_values"]
    found = patches_read(model, pixels, through="rollout")[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model.model.encode_images(pixels, output_attentions=True).abstractor_attentions
    queries, context = layers[0].shape[2:]
    # a row of what each query holds: shares of the queries before the first layer, then of the vision tokens
    held = torch.eye(queries, context)
    for layer in layers:
        attention = layer[0].mean(0)
        after = torch.zeros_like(held)
        for query in range(queries):
            read = sum(attention[query, other] * held[other] for other in range(queries))
            read[queries:] += attention[query, queries:]
            after[query] = (held[query] + read) / 2
        held = after
    torch.testing.assert_close(found.flatten(1), held[:, -16:])
    torch.testing.assert_close(held.sum(1), torch.ones(queries))


def test_layers_of_the_decoder_can_be_chosen() -> None:
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 2], seed=4)
    both = [attention_on_image(model, inputs, layers=(layer,)) for layer in (0, 1)]
    torch.testing.assert_close(torch.cat([one.per_layer for one in both]), attention_on_image(model, inputs).per_layer)
    assert (both[0].on_image - both[1].on_image).abs().max() > 1e-4
