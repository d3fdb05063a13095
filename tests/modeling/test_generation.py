"""What users of transformers expect of `generate()` holds for prompts with images too."""

from typing import Any

import pytest
import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.compatibility import CACHE

PROMPT = [4, IMAGE, 5, IMAGE, 3]


def prompt(model: Owl2ForConditionalGeneration, parts: list[int | str], seed: int = 0) -> dict[str, Any]:
    inputs = sample(model.config, parts, seed)
    return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


def generate(model: Owl2ForConditionalGeneration, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    """New tokens of a greedy generation that never ends early."""
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0, **settings}
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


def with_types(model: Owl2ForConditionalGeneration, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs as the processor gives them, with the modality of each token."""
    return {**inputs, "mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).long()}


@pytest.mark.parametrize("typed", [False, True], ids=["ids", "ids and types"])
@pytest.mark.parametrize("parts", [PROMPT, [4, IMAGE], [9]], ids=["images", "an image last", "text"])
@pytest.mark.parametrize("seed", [0, 7], ids=["the model itself", "another model"])
def test_an_assistant_model_sees_the_images_and_changes_no_token(
    seed: int, parts: list[int | str], typed: bool
) -> None:
    model, assistant = tiny_model(), tiny_model(seed=seed)
    inputs = prompt(model, parts)
    if typed:
        inputs = with_types(model, inputs)
    assert torch.equal(generate(model, inputs, assistant_model=assistant), generate(model, inputs))


@pytest.mark.parametrize("typed", [False, True], ids=["ids", "ids and types"])
@pytest.mark.parametrize("inside", [False, True], ids=["id outside of the vocabulary", "id inside"])
def test_prompt_lookup_proposes_no_image(inside: bool, typed: bool) -> None:
    config = tiny_config()
    if inside:
        config.image_token_id = 96
    model = tiny_model(config)
    inputs = prompt(model, PROMPT)
    before_image = inputs["input_ids"][0, 3].item()
    inputs["input_ids"][0, -1] = before_image  # what followed it in the prompt is the image
    expected = generate(model, inputs)
    if typed:
        inputs = with_types(model, inputs)
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=4), expected)


def test_guidance_weighs_the_prompt_against_its_last_token_alone() -> None:
    model = tiny_model()
    inputs = prompt(model, PROMPT)
    with torch.no_grad():
        given = model(**inputs).logits[0, -1].log_softmax(-1)
        alone = model(input_ids=inputs["input_ids"][:, -1:]).logits[0, -1].log_softmax(-1)
    wanted = (alone + 3.0 * (given - alone)).argmax()
    assert generate(model, inputs, guidance_scale=3.0, max_new_tokens=1).item() == wanted


def test_a_processor_of_the_users_sees_the_prompt_and_the_scores_of_the_vocabulary() -> None:
    model = tiny_model()
    inputs = prompt(model, PROMPT)
    seen = []

    class OnlySeven(LogitsProcessor):
        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
            seen.append(input_ids)
            mask = torch.full((model.config.text_config.vocab_size,), float("-inf"))
            mask[7] = 0.0
            return scores + mask

    processors = LogitsProcessorList([OnlySeven()])
    new = generate(model, inputs, logits_processor=processors, repetition_penalty=1.3)
    assert new.tolist() == [[7] * 8] and torch.equal(seen[0], inputs["input_ids"])


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@pytest.mark.parametrize("given", ["all images", "new images", "all images, types"])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_conversation_goes_on_from_the_cache_of_its_beginning(given: str, num_beams: int, name: str) -> None:
    model = tiny_model()
    samples = [sample(model.config, parts, seed) for seed, parts in enumerate(([2, IMAGE, 5], [IMAGE, 4, IMAGE]))]
    later = [sample(model.config, parts, seed) for seed, parts in enumerate(([3, IMAGE, 2], [5, IMAGE]), start=5)]
    begun = batch(samples, "left")
    with torch.no_grad():
        cache = model(**{**begun, "labels": None}, use_cache=True)[CACHE]
    new = batch(later, "right")
    pixels = [each["pixel_values"] for pair in zip(samples, later, strict=True) for each in pair]
    whole = {
        "input_ids": torch.cat([begun["input_ids"], new["input_ids"]], dim=1),
        "attention_mask": torch.cat([begun["attention_mask"], new["attention_mask"]], dim=1),
        "pixel_values": torch.cat(pixels),
    }
    expected = generate(model, whole, num_beams=num_beams)
    if given == "new images":
        whole["pixel_values"] = new["pixel_values"]
    if given == "all images, types":
        whole = with_types(model, whole)
    if num_beams > 1:
        cache.batch_repeat_interleave(num_beams)
    assert torch.equal(generate(model, whole, num_beams=num_beams, **{name: cache}), expected)


def test_a_text_may_follow_a_cache_with_or_without_its_images() -> None:
    model = tiny_model()
    inputs = prompt(model, PROMPT)
    first = model.generate(
        **inputs, max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0, return_dict_in_generate=True
    )
    ids = torch.cat([first.sequences, torch.tensor([[8, 9]])], dim=1)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": inputs["pixel_values"]}
    expected = generate(model, whole)
    only_new = {**whole, "input_ids": ids[:, -3:], "pixel_values": None}  # the last token is not in the cache
    for given in (whole, {**whole, "pixel_values": None}, only_new):
        cache = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0, return_dict_in_generate=True
        )[CACHE]
        assert torch.equal(generate(model, given, past_key_values=cache), expected)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_forward_takes_the_cache_of_an_earlier_turn_by_its_old_and_its_new_name(name: str) -> None:
    model = tiny_model()
    inputs = prompt(model, PROMPT)
    more = torch.tensor([[8, 9]])
    with torch.no_grad():
        cache = model(**inputs, use_cache=True)[CACHE]
        continued = model(input_ids=more, use_cache=True, **{name: cache})
        whole = model(
            input_ids=torch.cat([inputs["input_ids"], more], dim=1), pixel_values=inputs["pixel_values"]
        ).logits
    assert continued[CACHE] is cache
    torch.testing.assert_close(continued.logits, whole[:, -2:])


def test_two_caches_are_refused() -> None:
    model = tiny_model()
    inputs = prompt(model, [4])
    with torch.no_grad():
        cache = model(**inputs, use_cache=True)[CACHE]
    with pytest.raises(ValueError, match="not as both"):
        model(**inputs, past_key_values=cache, cache=cache)
    with pytest.raises(ValueError, match="not as both"):
        generate(model, inputs, past_key_values=cache, cache=cache)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_continuous_batching_generates_the_same_tokens(attention: str) -> None:
    model = tiny_model(attention=attention)
    prompts = [[5, 9, 4], [7] * 20, [11, 3]]
    expected = [
        generate(model, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)})
        for ids in prompts
    ]
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    pages = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=16)
    found = model.generate_batch(prompts, settings, continuous_batching_config=pages, progress_bar=False)
    tokens = [found[request].generated_tokens for request in sorted(found, key=lambda name: int(name.split("_")[-1]))]
    assert tokens == [row[0].tolist() for row in expected]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 2, "use_cache": False},
        {"do_sample": True, "num_return_sequences": 3},
    ],
    ids=["beams", "several of the beams", "without a cache", "several drawn"],
)
def test_an_image_is_encoded_once_whatever_the_number_of_its_sequences(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    parts: list[list[int | str]] = [[4, IMAGE, 5], [IMAGE, 2, IMAGE, 3], [9]]
    inputs = batch([sample(model.config, each, seed) for seed, each in enumerate(parts)], "left")
    del inputs["labels"]
    is_vision = inputs["input_ids"] == model.config.image_token_id
    embeddings = model.get_input_embeddings()(inputs["input_ids"].masked_fill(is_vision, 0))
    features = model.get_image_features(inputs["pixel_values"]).last_hidden_state
    # The same prompt as embeddings that hold the visual tokens already: no image is left to repeat.
    filled = {
        "inputs_embeds": embeddings.masked_scatter(is_vision.unsqueeze(-1), features),
        "attention_mask": inputs["attention_mask"],
        "mm_token_type_ids": is_vision.long(),
    }
    settings = {"max_new_tokens": 6, "eos_token_id": -1, "pad_token_id": 0, "do_sample": False, **settings}
    torch.manual_seed(0)
    expected = None if "use_cache" in settings else model.generate(**filled, **settings)
    encoded: list[int] = []
    encode = model.model.vision_tower.forward

    def counted(pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        encoded.append(len(pixel_values))
        return encode(pixel_values, **kwargs)

    monkeypatch.setattr(model.model.vision_tower, "forward", counted)
    torch.manual_seed(0)
    found = generate(model, inputs, **settings)
    assert sum(encoded) == 3
    if expected is None:
        expected = generate(model, inputs, **{**settings, "use_cache": True})
    assert torch.equal(found, expected)


def test_visual_tokens_may_be_given_in_place_of_pixels() -> None:
    model = tiny_model()
    inputs = prompt(model, PROMPT)
    features = model.get_image_features(inputs["pixel_values"]).last_hidden_state
    given = {**inputs, "image_hidden_states": features, "pixel_values": None}
    with torch.no_grad():
        assert torch.equal(model(**given).logits, model(**inputs).logits)
    for settings in ({}, {"num_beams": 2}, {"use_cache": False}):
        assert torch.equal(generate(model, given, **settings), generate(model, inputs, **settings))
    with pytest.raises(ValueError, match=r"\[2, 3, 64\], but must be \[N, 4, 64\]"):
        model(**{**given, "image_hidden_states": features[:, 1:]})
    with pytest.raises(ValueError, match="not as both"):
        model(**{**inputs, "image_hidden_states": features})
    with pytest.raises(ValueError, match="1 images take 4 rows"):
        generate(model, {**given, "image_hidden_states": features[1:]})


@pytest.mark.parametrize("filled", [False, True], ids=["with pixels", "already holding the visual tokens"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_embeddings_may_be_given_instead_of_ids(filled: bool, num_beams: int) -> None:
    model = tiny_model()
    parts: list[list[int | str]] = [[4, IMAGE, 5], [IMAGE, 2, IMAGE, IMAGE, 6], [9]]
    inputs = batch([sample(model.config, each, seed) for seed, each in enumerate(parts)], "left")
    del inputs["labels"]
    is_vision = inputs["input_ids"] == model.config.image_token_id
    embeddings = model.get_input_embeddings()(inputs["input_ids"].masked_fill(is_vision, 0))
    given = {**inputs, "inputs_embeds": embeddings, "mm_token_type_ids": is_vision.long()}
    del given["input_ids"]
    if filled:
        features = model.get_image_features(given.pop("pixel_values")).pooler_output
        given["inputs_embeds"] = embeddings.masked_scatter(is_vision.unsqueeze(-1), torch.cat(features))
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "num_beams": num_beams}
    assert torch.equal(model.generate(**given, **settings), generate(model, inputs, num_beams=num_beams))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 3, 16, 16), (1, 1, 16, 16)])
@pytest.mark.parametrize("generating", [False, True])
def test_pixels_of_another_shape_are_refused_with_the_shape(shape: tuple[int, ...], generating: bool) -> None:
    model = tiny_model()
    inputs = {**prompt(model, [2, IMAGE]), "pixel_values": torch.zeros(shape)}
    with pytest.raises(ValueError, match=rf"have the shape \[{', '.join(map(str, shape))}\].*\[N, 3, H, W\]"):
        generate(model, inputs) if generating else model(**inputs)
