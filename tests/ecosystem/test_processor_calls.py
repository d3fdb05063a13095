"""The processor is one of transformers' in everything that libraries ask of it."""

from typing import Any

import jinja2
import numpy as np
import pytest
from PIL import Image

from owl2 import Owl2Processor
from owl2.labels import IGNORE_INDEX

TEXT = "USER: <|image|>What is it? ASSISTANT:"
PICTURE = Image.new("RGB", (40, 30), "red")
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def talk() -> list[dict[str, Any]]:
    def turn(role: str, *parts: Any) -> dict[str, Any]:
        return {"role": role, "content": [each if isinstance(each, dict) else text(each) for each in parts]}

    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    picture = {"type": "image", "image": PICTURE}
    return [
        turn("user", picture, "What is it?"),
        turn("assistant", "A cat."),
        turn("user", "And ", picture, "this?"),
        turn("assistant", "a dog"),
    ]


def test_the_mask_of_the_assistants_tokens_is_where_encode_conversation_has_labels(
    processor: Owl2Processor, talk: list[dict[str, Any]]
) -> None:
    sample = processor.encode_conversation(talk)
    found = processor.apply_chat_template(
        [talk, talk[:2]], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert list(found["input_ids"][0]) == sample["input_ids"]
    assert list(found["assistant_masks"][0]) == [int(label != IGNORE_INDEX) for label in sample["labels"]]
    assert sum(found["assistant_masks"][1]) < sum(found["assistant_masks"][0])


def test_offsets_are_those_of_the_text_that_was_given(processor: Owl2Processor) -> None:
    found = processor(text=[TEXT, "Hi"], images=PICTURE, padding=True, return_offsets_mapping=True)
    place = (TEXT.index("<|image|>"), TEXT.index("<|image|>") + len("<|image|>"))
    for ids, offsets, modalities in zip(
        found["input_ids"], found["offset_mapping"], found["mm_token_type_ids"], strict=True
    ):
        assert len(offsets) == len(ids)
        assert all((pair == place) == bool(modality) for pair, modality in zip(offsets, modalities, strict=True))
    words = [TEXT[first:last] for first, last in found["offset_mapping"][0] if last > first]
    assert "".join(dict.fromkeys(words)).replace(" ", "").startswith("USER:<|image|>What")


def test_lengths_and_masks_of_special_tokens_are_those_of_the_rows(processor: Owl2Processor) -> None:
    found = processor(text=["Hi", "Hello you</s>"], padding=True, return_length=True, return_special_tokens_mask=True)
    assert found["length"] == [len(row) for row in found["input_ids"]]
    special = set(processor.tokenizer.all_special_ids)
    for ids, mask, attended in zip(
        found["input_ids"], found["special_tokens_mask"], found["attention_mask"], strict=True
    ):
        assert mask == [int(token in special or not real) for token, real in zip(ids, attended, strict=True)]
    assert "attention_mask" not in processor(text="Hi", return_attention_mask=False)


@pytest.mark.parametrize(
    ("grouped", "flat"),
    [
        ({"text_kwargs": {"padding": "max_length", "max_length": 60}}, {"padding": "max_length", "max_length": 60}),
        ({"images_kwargs": {"size": {"height": 28, "width": 28}}}, {"size": {"height": 28, "width": 28}}),
        (
            {"images_kwargs": {"aspect": "pad"}, "common_kwargs": {"return_tensors": "pt"}},
            {"aspect": "pad", "return_tensors": "pt"},
        ),
        ({"images_kwargs": {"do_normalize": False}, "videos_kwargs": {"num_frames": 2}}, {"do_normalize": False}),
    ],
)
def test_grouped_settings_are_the_flat_ones(processor: Owl2Processor, grouped: Any, flat: Any) -> None:
    one, other = (processor(text=TEXT, images=PICTURE, **each) for each in (grouped, flat))
    assert list(one["input_ids"][0]) == list(other["input_ids"][0])
    assert (one["pixel_values"] == other["pixel_values"]).all()
    assert [name for name in flat if name != "return_tensors"] == ["padding", "max_length"] or (
        np.shape(one["pixel_values"]) != np.shape(plain := processor(text=TEXT, images=PICTURE)["pixel_values"])
        or (np.asarray(one["pixel_values"]) != plain).any()
    )


def test_without_resizing_pixels_are_those_of_the_image(processor: Owl2Processor) -> None:
    assert processor(text=TEXT, images=PICTURE, do_resize=False)["pixel_values"].shape == (1, 3, 30, 40)
    with pytest.raises(ValueError, match="cannot be one tensor"):
        processor(text=TEXT * 2, images=[PICTURE, PICTURE.resize((20, 20))], do_resize=False)


def test_what_it_does_not_take_is_refused_by_name(processor: Owl2Processor) -> None:
    with pytest.raises(TypeError, match="does not take paddding"):
        processor(text="Hi", paddding=True)
    with pytest.raises(TypeError, match="does not take text_pair"):
        processor(text="Hi", text_pair="b")
    with pytest.raises(ValueError, match="give it once"):
        processor(text="Hi", padding=True, text_kwargs={"padding": False})


@pytest.mark.parametrize("given", [{"tools": [TOOL]}, {"documents": [{"title": "a", "text": "b"}]}])
def test_tools_and_documents_that_the_template_would_drop_are_refused(
    processor: Owl2Processor, talk: list[dict[str, Any]], given: Any
) -> None:
    with pytest.raises(ValueError, match="which would be dropped"):
        processor.apply_chat_template(talk[:1], tokenize=False, **given)
    reads_them = "{{ messages[0]['role'] }} {{ tools }} {{ documents }}"
    assert "name" in processor.apply_chat_template(talk[:1], chat_template=reads_them, tokenize=False, **given) or (
        "documents" in given
    )


def test_a_refusal_of_the_template_is_an_error_of_jinja_and_of_ours(
    processor: Owl2Processor, talk: list[dict[str, Any]]
) -> None:
    for kind in (ValueError, jinja2.TemplateError):
        with pytest.raises(kind, match="the chat template refuses the messages: .*out of place"):
            processor.apply_chat_template([*talk, {"role": "tool", "content": "1"}])
