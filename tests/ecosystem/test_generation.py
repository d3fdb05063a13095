"""`generate()` takes what the processor gives, in each of the ways that transformers generates."""

from typing import Any

import pytest
import torch
from helpers import randomize

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.modeling.compatibility import CACHE


def generated(model: Owl2ForConditionalGeneration, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    """The prompt and 12 tokens, the most likely ones."""
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **settings}
    return model.generate(**inputs, **settings)


@pytest.fixture(params=["an image in front", "an image last", "text"])
def inputs(request: pytest.FixtureRequest, processor: Owl2Processor, conversations: list[dict[str, Any]]) -> Any:
    texts = {
        "an image in front": "USER: <|image|>What is the color? ASSISTANT: the color, the color",
        "an image last": "What is the color, the color of <|image|>",
        "text": "the cat and the cat and the",
    }
    images = None if request.param == "text" else conversations[0]["images"]
    return dict(processor(text=texts[request.param], images=images, return_tensors="pt"))


def test_prompt_lookup_gives_the_most_likely_tokens(
    model: Owl2ForConditionalGeneration, inputs: dict[str, Any]
) -> None:
    assert "mm_token_type_ids" in inputs
    assert torch.equal(generated(model, inputs, prompt_lookup_num_tokens=3), generated(model, inputs))


@pytest.mark.parametrize("seed", [None, 1], ids=["the model itself", "another model"])
def test_an_assistant_model_gives_the_most_likely_tokens(
    model: Owl2ForConditionalGeneration, inputs: dict[str, Any], seed: int | None
) -> None:
    assistant = model if seed is None else randomize(Owl2ForConditionalGeneration(model.config), seed).eval()
    assert torch.equal(generated(model, inputs, assistant_model=assistant), generated(model, inputs))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_second_turn_with_another_image_goes_on_from_the_cache_of_the_first(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, conversations: list[dict[str, Any]], name: str
) -> None:
    images = [conversations[index]["images"][0] for index in range(2)]
    first = dict(processor(text="USER: <|image|>Which color? ASSISTANT:", images=images[:1], return_tensors="pt"))
    turn = generated(model, first, return_dict_in_generate=True)
    second = dict(processor(text="USER: <|image|>And this? ASSISTANT:", images=images[1:], return_tensors="pt"))
    ids = torch.cat([turn.sequences, second["input_ids"]], dim=1)
    answered = torch.zeros(1, turn.sequences.shape[1] - first["input_ids"].shape[1], dtype=torch.long)
    types = torch.cat([first["mm_token_type_ids"], answered, second["mm_token_type_ids"]], dim=1)
    whole = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": types,
        "pixel_values": torch.cat([first["pixel_values"], second["pixel_values"]]),
    }
    expected = generated(model, whole)
    assert torch.equal(generated(model, whole, **{name: turn[CACHE]}), expected)
