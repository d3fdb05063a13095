"""A batch gives what its samples give alone, whatever the padding side and the mix of image counts."""

from typing import Any

import pytest
import torch
from helpers import IMAGE, batch, largest_difference, sample, tiny_config, tiny_model

from owl2.modeling import Owl2ForConditionalGeneration

TOLERANCE = 1e-5

MIXTURES: dict[str, list[list[int | str]]] = {
    "0, 1 and 3 images": [[9], [4, IMAGE, 5], [IMAGE, 2, IMAGE, IMAGE, 6]],
    "images first and last": [[IMAGE, 3], [2, IMAGE], [12], [IMAGE, 1, IMAGE]],
    "equal lengths": [[2, IMAGE, 3], [9], [IMAGE, 5]],
    "text only": [[9], [4], [1]],
}
every_mixture = pytest.mark.parametrize("mixture", list(MIXTURES))
both_sides = pytest.mark.parametrize("side", ["right", "left"])
every_decoder = pytest.mark.parametrize(
    "text",
    [{}, {"modality_adaptive": ("q", "k")}, {"sliding_window": 7}, {"qk_norm": True, "tie_word_embeddings": True}],
    ids=["paper", "q+k", "sliding window", "qk norm, tied"],
)


def samples_of(model: Owl2ForConditionalGeneration, mixture: str) -> list[dict[str, Any]]:
    return [sample(model.config, parts, seed) for seed, parts in enumerate(MIXTURES[mixture])]


@every_decoder
@both_sides
@every_mixture
@torch.no_grad()
def test_logits_of_a_batch_are_those_of_its_samples(mixture: str, side: str, text: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**text))
    samples = samples_of(model, mixture)
    inputs = batch(samples, side)
    logits = model(**inputs).logits
    for row, alone in enumerate(samples):
        kept = inputs["attention_mask"][row].bool()
        assert largest_difference(logits[row][kept], model(**alone).logits[0]) <= TOLERANCE


@both_sides
@every_mixture
def test_loss_and_gradients_of_a_batch_are_those_of_its_samples(mixture: str, side: str) -> None:
    model = tiny_model()
    samples = samples_of(model, mixture)
    together = model(**batch(samples, side))
    together.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    # Text tokens after the first one of a sample are supervised; visual rows never are.
    supervised = [int((each["input_ids"][0, 1:] < model.config.image_token_id).sum()) for each in samples]
    total = torch.zeros(())
    for alone, count in zip(samples, supervised, strict=True):
        total = total + model(**alone, labels=alone["input_ids"]).loss * count
    mean = total / sum(supervised)
    mean.backward()
    assert together.loss.item() == pytest.approx(mean.item(), abs=TOLERANCE)
    for name, parameter in model.named_parameters():
        if name in gradients and parameter.grad is not None:
            assert largest_difference(gradients[name], parameter.grad) <= TOLERANCE, name
        else:
            assert name not in gradients and parameter.grad is None, name


def generate(model: Owl2ForConditionalGeneration, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    """New tokens of a generation that never ends early."""
    inputs = {key: value for key, value in inputs.items() if key != "labels"}
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0, **settings}
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


def alone(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


@pytest.mark.parametrize("cache_implementation", [None, "static"], ids=["dynamic", "static"])
@every_decoder
@every_mixture
def test_greedy_generation_of_a_batch_is_that_of_its_samples(
    mixture: str, text: dict[str, Any], cache_implementation: str | None
) -> None:
    model = tiny_model(tiny_config(**text))
    samples = samples_of(model, mixture)
    together = generate(model, batch(samples, "left"), cache_implementation=cache_implementation)
    for row, inputs in enumerate(samples):
        assert together[row].tolist() == generate(model, alone(inputs))[0].tolist()


def rescored(model: Owl2ForConditionalGeneration, inputs: dict[str, Any], count: int) -> list[int]:
    """Greedy generation without any cache: the whole sequence is read again for every token."""
    ids = inputs["input_ids"]
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -count:].tolist()


@every_decoder
def test_generation_with_a_cache_is_reading_everything_again(text: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**text))
    inputs = sample(model.config, MIXTURES["0, 1 and 3 images"][2], 2)
    assert generate(model, alone(inputs))[0].tolist() == rescored(model, inputs, 6)


@pytest.mark.parametrize("given", ["from ids", "mm_token_type_ids"])
@every_mixture
def test_beams_of_a_batch_are_those_of_its_samples(mixture: str, given: str) -> None:
    model = tiny_model()

    def with_types(inputs: dict[str, Any]) -> dict[str, Any]:
        types = (inputs["input_ids"] == model.config.image_token_id).long()
        return inputs if given == "from ids" else {**inputs, "mm_token_type_ids": types}

    samples = samples_of(model, mixture)
    together = generate(model, with_types(batch(samples, "left")), num_beams=3)
    for row, inputs in enumerate(samples):
        assert together[row].tolist() == generate(model, with_types(alone(inputs)), num_beams=3)[0].tolist()


def plain_beam_search(model: Owl2ForConditionalGeneration, inputs: dict[str, Any], beams: int, steps: int) -> list[int]:
    """Beam search by reading each beam whole and alone."""
    length = inputs["input_ids"].shape[1]
    candidates = [(0.0, inputs["input_ids"])]
    for _ in range(steps):
        extended = []
        for score, ids in candidates:
            with torch.no_grad():
                logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -1]
            values, tokens = logits.log_softmax(-1).topk(beams)
            for value, token in zip(values.tolist(), tokens, strict=True):
                extended.append((score + value, torch.cat([ids, token.view(1, 1)], dim=1)))
        candidates = sorted(extended, key=lambda pair: -pair[0])[:beams]
    return candidates[0][1][0, length:].tolist()


def test_beam_search_keeps_the_images_of_a_prompt_in_order() -> None:
    model = tiny_model()
    inputs = sample(model.config, [IMAGE, 2, IMAGE, 3, IMAGE, 2], 7)
    assert generate(model, alone(inputs), num_beams=3)[0].tolist() == plain_beam_search(model, inputs, 3, 6)


def test_sampling_with_a_seed_repeats_itself_and_several_sequences_see_their_images() -> None:
    model = tiny_model()
    inputs = batch(samples_of(model, "0, 1 and 3 images"), "left")

    def draw() -> torch.Tensor:
        torch.manual_seed(3)
        return generate(model, inputs, do_sample=True, temperature=1.5, num_return_sequences=2)

    first = draw()
    assert first.shape == (6, 6)
    assert torch.equal(first, draw())
    # As sharp as it gets, sampling is greedy: each returned sequence must see the images of its own sample.
    sharp = generate(model, inputs, do_sample=True, temperature=1e-4, num_return_sequences=2)
    assert torch.equal(sharp, generate(model, inputs).repeat_interleave(2, dim=0))


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 1.8}, {"no_repeat_ngram_size": 2}, {"bad_words_ids": [[5], [7, 8]]}]
)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_penalties_work_though_image_ids_are_outside_the_vocabulary(settings: dict[str, Any], num_beams: int) -> None:
    model = tiny_model()
    assert model.config.image_token_id >= model.config.text_config.vocab_size
    samples = samples_of(model, "0, 1 and 3 images")
    for inputs in samples[1:]:
        new = generate(model, alone(inputs), num_beams=num_beams, max_new_tokens=12, **settings)[0].tolist()
        assert max(new) < model.config.text_config.vocab_size
        if "no_repeat_ngram_size" in settings:
            text = [*inputs["input_ids"][0].tolist(), *new]
            pairs = [pair for pair in zip(text, text[1:], strict=False) if model.config.image_token_id not in pair]
            assert len(pairs) == len(set(pairs))


def test_forbidding_repeated_ngrams_ignores_the_token_before_an_image() -> None:
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 2], 1)
    before_image = inputs["input_ids"][0, 2].item()
    inputs["input_ids"][0, -1] = before_image  # the rule now looks up what followed it: the image placeholder
    new = generate(model, alone(inputs), no_repeat_ngram_size=2)[0].tolist()
    assert max(new) < model.config.text_config.vocab_size


def test_a_repetition_penalty_weighs_text_alone() -> None:
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 2], 1)
    text = sorted(set(inputs["input_ids"][0].tolist()) - {model.config.image_token_id})
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    wanted = logits.clone()
    wanted[text] = torch.where(logits[text] < 0, logits[text] * 50.0, logits[text] / 50.0)
    assert wanted.argmax() == generate(model, alone(inputs), repetition_penalty=50.0)[0, 0]


@pytest.mark.parametrize("num_beams", [None, 1, 2], ids=["forward", "greedy", "beams"])
@pytest.mark.parametrize("given", ["from ids", "mm_token_type_ids"])
@pytest.mark.parametrize(("images", "placeholders"), [(0, 1), (1, 0), (1, 2), (3, 2), (2, 1)])
def test_images_and_placeholders_that_disagree_are_refused_with_both_numbers(
    images: int, placeholders: int, given: str, num_beams: int | None
) -> None:
    model = tiny_model()
    inputs = sample(model.config, [2, *([IMAGE] * placeholders), 3], 1)
    inputs["pixel_values"] = torch.zeros(images, 3, 16, 16) if images else None
    if given == "mm_token_type_ids":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).long()
    rows = model.config.tokens_per_image
    with pytest.raises(
        ValueError, match=rf"\b{images} images take {images * rows} rows.*\b{placeholders * rows} placeholder"
    ):
        if num_beams is None:
            model(**inputs)
        else:
            generate(model, alone(inputs), num_beams=num_beams)


def test_a_placeholder_that_is_not_marked_as_vision_is_refused() -> None:
    model = tiny_model()
    inputs = sample(model.config, [2, IMAGE, 3], 1)
    with pytest.raises(ValueError, match="4 placeholder rows, of which 0"):
        model(**inputs, mm_token_type_ids=torch.zeros_like(inputs["input_ids"]))


@pytest.mark.parametrize("training", [False, True])
def test_no_images_may_be_given_as_an_empty_tensor(training: bool) -> None:
    model = tiny_model().train(training)
    inputs = sample(model.config, [7], 1)
    empty = {**inputs, "pixel_values": torch.zeros(0, 3, 16, 16)}
    assert torch.equal(model(**empty).logits, model(**inputs).logits)
    assert generate(model.eval(), alone(empty)).tolist() == generate(model, alone(inputs)).tolist()
    assert generate(model, alone(empty), num_beams=2).tolist() == generate(model, alone(inputs), num_beams=2).tolist()


@pytest.mark.parametrize("given", ["from ids", "mm_token_type_ids"])
def test_images_in_labels_are_never_learnt(given: str) -> None:
    model = tiny_model()
    inputs = sample(model.config, [4, IMAGE, 5], 1)
    is_vision = inputs["input_ids"] == model.config.image_token_id
    if given == "mm_token_type_ids":
        inputs["mm_token_type_ids"] = is_vision.long()
    masked = inputs["input_ids"].masked_fill(is_vision, -100)
    wanted = model(**inputs, labels=masked).loss
    assert torch.equal(model(**inputs, labels=inputs["input_ids"]).loss, wanted)
    assert torch.equal(model(**inputs, labels=masked.masked_fill(is_vision, 3)).loss, wanted)
    logits = model(**inputs).logits[0, :-1]
    targets = masked[0, 1:]
    rows = [index for index, target in enumerate(targets.tolist()) if target != -100]
    plain = torch.stack([-logits[row].log_softmax(-1)[targets[row]] for row in rows]).mean()
    assert wanted.item() == pytest.approx(plain.item(), abs=1e-5)


@torch.no_grad()
def test_pictures_change_only_their_own_sample() -> None:
    model = tiny_model()
    samples = samples_of(model, "0, 1 and 3 images")
    inputs = batch(samples, "left")
    before = model(**inputs).logits
    inputs["pixel_values"][0] += 1.0  # the only image of the second sample
    after = model(**inputs).logits
    changed = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert changed == [False, True, False]
