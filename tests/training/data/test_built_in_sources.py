"""Sources that come with a package: easy-VQA about images or captions, and English texts."""

from pathlib import Path

import pytest
import torch
from training.tiny_recipes import recipe_of

from owl2.data.sources import easy_vqa, english
from owl2.processing import Owl2Processor
from owl2.training.data.stage_data import StageData, open_stage_data
from owl2.training.model.build import build_model

FEW = 300


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[easy_vqa.Question]:
    questions = easy_vqa.load_questions("train")[:FEW]
    monkeypatch.setattr(easy_vqa, "load_questions", lambda split: questions)
    return questions


@pytest.fixture(scope="module")
def processor(data: Path) -> Owl2Processor:
    return build_model(recipe_of(data, "pretrain", data), english.passages("train"))[1]


def opened(data: Path, sources: str, *overrides: str) -> StageData:
    (data / "built_in.yaml").write_text(f"base: instruct.yaml\ndata: {{sources: {{{sources}}}}}\n")
    recipe = recipe_of(data, "built_in", data / "run", *overrides)
    return open_stage_data(recipe, recipe.data.sources, data / "run")


def spoken(samples: StageData) -> list[str]:
    """The texts without the words of the prompt."""
    return [text.removeprefix("USER: ").removeprefix(" ASSISTANT: ") for text in samples.texts(10**6)]


def test_questions_are_about_images_or_about_captions_in_their_place(
    data: Path, few: list[easy_vqa.Question], processor: Owl2Processor
) -> None:
    about_images = opened(data, "a: {format: easy_vqa}")
    about_captions = opened(data, "a: {format: easy_vqa, asked_of: captions, max_questions: 2}")
    (drawn,) = about_images.take(1)
    assert len(about_images.dataset(processor)[drawn].sample["pixel_values"]) == 1
    (drawn,) = about_captions.take(1)
    assert "pixel_values" not in about_captions.dataset(processor)[drawn].sample
    captions = {pair.caption for pair in easy_vqa.pairs(few)}
    assert any(text.startswith(tuple(captions)) for text in spoken(about_captions))
    assert not any(text.startswith(tuple(captions)) for text in spoken(about_images))


def test_thinning_out_is_that_of_the_questions(data: Path, few: list[easy_vqa.Question]) -> None:
    asked = [text for text in spoken(opened(data, "a: {format: easy_vqa, thinned: true}")) if text.endswith("?")]
    assert sorted(asked) == sorted(question.question for question in easy_vqa.thinned(few))


def test_english_is_passages_and_instructions_but_not_the_facts_unless_they_are_named(
    data: Path, processor: Owl2Processor
) -> None:
    by_default = spoken(opened(data, "a: {format: english}"))
    assert set(english.passages("train")) < set(by_default)
    assert {word for pair in english.instructions() for word in pair} < set(by_default)
    statements = {fact.statement for fact in english.facts()}
    assert not statements & set(by_default)
    facts = opened(data, "a: {format: english, texts: [facts]}", "data.max_length=500")
    assert statements < set(spoken(facts))
    samples = [facts.dataset(processor)[draw].sample for draw in facts.take(2 * len(statements))]
    plain = [processor.encode_text(fact.statement)["input_ids"] for fact in english.facts()]
    assert all(ids in [sample["input_ids"] for sample in samples] for ids in plain)


def test_a_kept_and_flipped_sample_is_the_plain_one_or_its_mirror_image(
    data: Path, few: list[easy_vqa.Question], processor: Owl2Processor
) -> None:
    wrapped = opened(data, "a: {format: easy_vqa}", "data.augment=flip", "data.keep_in_memory=true")
    plain = opened(data, "a: {format: easy_vqa}")
    draws = wrapped.take(20)
    pairs = [(wrapped.dataset(processor)[draw].sample, plain.dataset(processor)[draw].sample) for draw in draws]
    same = [torch.equal(one["pixel_values"], other["pixel_values"]) for one, other in pairs]
    mirrored = [torch.equal(one["pixel_values"], other["pixel_values"].flip(-1)) for one, other in pairs]
    assert all(one or other for one, other in zip(same, mirrored, strict=True)) and any(same) and any(mirrored)
    assert all(one["labels"] == other["labels"] for one, other in pairs)


def test_the_tokenizer_of_a_small_model_knows_the_words_of_the_prompt(data: Path) -> None:
    samples = opened(data, "a: {format: english}")
    recipe = recipe_of(data, "pretrain", data, "model.initialize.language_model.vocab_size=2048")
    tokenizer = build_model(recipe, samples.texts(4000))[1].tokenizer
    assert tokenizer.tokenize("USER: what ASSISTANT: no") == ["USER", ":", "Ġwhat", "ĠASSISTANT", ":", "Ġno"]
