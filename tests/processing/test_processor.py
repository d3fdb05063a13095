"""Texts, images and videos to the inputs of the model, for inference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image

from owl2.processing import Owl2Processor

IMAGE_ID, ROWS = 320, 3  # of the processor in conftest.py
SHADES = [Image.new("RGB", (8, 6), (20 * index,) * 3) for index in range(8)]


def widened(official: list[int]) -> list[int]:
    """Official ids with each placeholder (-200) as the rows that it becomes."""
    return [token for item in official for token in ([IMAGE_ID] * ROWS if item == -200 else [item])]


def brightness(batch: Any) -> list[float]:
    return [round(float(pixels.mean()), 3) for pixels in batch["pixel_values"]]


def pixels_of(processor: Owl2Processor, images: list[Image.Image]) -> list[float]:
    return [round(float(pixels.mean()), 3) for pixels in processor.image_processor(images)["pixel_values"]]


def test_token_ids_equal_the_official_ones(processor: Owl2Processor, cases: dict[str, Any]) -> None:
    for case in cases["tokenizer_image_token"]:
        count = case["prompt"].count("<|image|>")
        batch = processor(text=case["prompt"], images=SHADES[:count])
        assert batch["input_ids"] == [widened(case["ids"])], case["prompt"]


def test_text_is_tokenized_as_sentencepiece_does(processor: Owl2Processor, reference: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(reference / "tokenizer" / "tokenizer.model"))
    generator = np.random.default_rng(0)
    for text in [" x", "  x", " ", "   ", "a  b ", "\n x", "é 你 ▁", *_random_texts(generator, 300)]:
        assert processor(text=text)["input_ids"] == [[model.bos_id(), *model.encode(text)]], repr(text)


def _random_texts(generator: np.random.Generator, count: int) -> list[str]:
    return ["".join(generator.choice(list("abt h e  .\nUSER:é你"), 12)) for _ in range(count)]


def test_prompts_equal_the_official_ones(processor: Owl2Processor, cases: dict[str, Any]) -> None:
    system = cases["prompts"]["vicuna_v1"][0]["prompt"].split(" USER:")[0]
    for name, prompts in cases["prompts"].items():
        for case in prompts:
            messages = [{"role": "system", "content": system}] if name == "vicuna_v1" else []
            for index, turn in enumerate(case["turns"]):
                if turn is not None:
                    messages.append({"role": ("user", "assistant")[index % 2], "content": turn})
            is_open = case["turns"][-1] is None
            assert processor.apply_chat_template(messages, add_generation_prompt=is_open) == case["prompt"]


def test_content_parts_are_rendered_in_their_order(processor: Owl2Processor) -> None:
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image"},
        {"type": "text", "text": "then"},
        {"type": "video"},
    ]
    messages = [{"role": "user", "content": parts}]
    assert processor.apply_chat_template(messages) == "USER: first<|image|>then<|video|>"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "audio"}]}],
    ],
)
def test_messages_out_of_place_are_errors(processor: Owl2Processor, messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="chat template refuses"):
        processor.apply_chat_template(messages)


def test_modalities_mark_rows_of_images_and_videos(processor: Owl2Processor) -> None:
    batch = processor(text="a<|video|>b<|image|>", images=SHADES[0], videos=[SHADES[1:3]])
    is_row = [token == IMAGE_ID for token in batch["input_ids"][0]]
    assert [kind for kind in batch["mm_token_type_ids"][0] if kind] == [2] * 2 * ROWS + [1] * ROWS
    assert [kind != 0 for kind in batch["mm_token_type_ids"][0]] == is_row
    assert brightness(batch) == pixels_of(processor, [SHADES[1], SHADES[2], SHADES[0]])


def test_pixels_come_in_the_order_of_their_placeholders_over_the_batch(processor: Owl2Processor) -> None:
    texts = ["<|image|>a<|video|>", "b", "<|video|><|image|><|image|>"]
    flat = processor(text=texts, images=SHADES[:3], videos=[SHADES[3:5], SHADES[5:6]])
    nested = processor(text=texts, images=[SHADES[:1], [], SHADES[1:3]], videos=[[SHADES[3:5]], None, [SHADES[5:6]]])
    expected = pixels_of(processor, [SHADES[index] for index in (0, 3, 4, 5, 1, 2)])
    assert brightness(flat) == brightness(nested) == expected
    assert flat["input_ids"] == nested["input_ids"]


def test_long_videos_are_sampled(processor: Owl2Processor) -> None:
    assert len(processor(text="<|video|>", videos=SHADES * 2)["pixel_values"]) == 8
    assert brightness(processor(text="<|video|>", videos=SHADES, num_frames=2)) == pixels_of(
        processor, [SHADES[2], SHADES[6]]
    )


def test_text_without_images_has_no_pixels(processor: Owl2Processor) -> None:
    assert set(processor(text="a", return_tensors="pt")) == {"input_ids", "attention_mask", "mm_token_type_ids"}


@pytest.mark.parametrize(
    ("text", "media", "numbers"),
    [
        ("<|image|><|image|>", {"images": SHADES[:1]}, r"2 <\|image\|> placeholders .* 1 images"),
        ("<|image|>", {"images": SHADES[:2]}, r"1 <\|image\|> placeholders .* 2 images"),
        ("<|image|>", {}, r"1 <\|image\|> placeholders .* 0 images"),
        ("a", {"images": SHADES[0]}, r"0 <\|image\|> placeholders .* 1 images"),
        (["<|image|>", "a"], {"images": [[], SHADES[:1]]}, r"text 0 has 1 <\|image\|> placeholders but 0 images"),
        (["<|image|>", "a"], {"images": [SHADES[:2], []]}, r"text 0 has 1 <\|image\|> placeholders but 2 images"),
        (["<|image|>", "a"], {"images": [SHADES[:1]]}, "2 texts but 1 lists of images"),
        ("<|video|>", {"videos": [SHADES[:2], SHADES[:1]]}, r"1 <\|video\|> placeholders .* 2 videos"),
        ("<|video|>", {"images": SHADES[:1]}, r"0 <\|image\|> placeholders .* 1 images"),
    ],
)
def test_unequal_numbers_are_an_error_with_both(
    processor: Owl2Processor, text: Any, media: dict[str, Any], numbers: str
) -> None:
    with pytest.raises(ValueError, match=numbers):
        processor(text=text, **media)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_goes_to_the_side_asked_for(processor: Owl2Processor, side: str) -> None:
    texts = ["<|image|>what is it?", "a"]
    alone = [processor(text=texts[0], images=SHADES[0]), processor(text=texts[1])]
    batch = processor(text=texts, images=SHADES[:1], padding=True, padding_side=side, return_tensors="pt")
    length = len(alone[0]["input_ids"][0])
    assert batch["input_ids"].shape == (2, length)
    for name, value in [("input_ids", 0), ("attention_mask", 0), ("mm_token_type_ids", 0)]:
        short = alone[1][name][0]
        padding = [value] * (length - len(short))
        assert batch[name][0].tolist() == alone[0][name][0]
        assert batch[name][1].tolist() == (padding + short if side == "left" else short + padding)


def test_padding_to_a_length_and_to_a_multiple(processor: Owl2Processor) -> None:
    assert processor(text="a", padding="max_length", max_length=9, return_tensors="pt")["input_ids"].shape == (1, 9)
    assert processor(text="a", padding=True, pad_to_multiple_of=8, return_tensors="pt")["input_ids"].shape == (1, 8)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"return_tensors": "pt"}, "pass padding=True"),
        ({"padding": "longer"}, "padding='longer'"),
        ({"padding": "max_length"}, "needs max_length"),
        ({"padding": True, "padding_side": "top"}, "padding_side='top'"),
        ({"truncation": True}, "max_length=None"),
        ({"max_length": 0}, "max_length=0"),
        ({"audio": [0.0]}, "no audio"),
    ],
)
def test_settings_that_make_no_sense_are_errors(
    processor: Owl2Processor, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        processor(text=["a", "a longer text"], **settings)


def test_too_long_texts_are_an_error_unless_text_may_be_cut(processor: Owl2Processor) -> None:
    text = "<|image|>what is in the image?"
    whole = processor(text=text, images=SHADES[0])["input_ids"][0]
    with pytest.raises(ValueError, match=f"text 0 has {len(whole)} tokens, over max_length=8"):
        processor(text=text, images=SHADES[0], max_length=8)
    cut = processor(text=text, images=SHADES[0], max_length=8, truncation=True)
    assert cut["input_ids"] == [whole[:8]] and len(cut["attention_mask"][0]) == len(cut["mm_token_type_ids"][0]) == 8


def test_images_are_never_cut(processor: Owl2Processor) -> None:
    with pytest.raises(ValueError, match=r"text 1 has 5 tokens, over max_length=4.*lose 1 rows"):
        processor(text=["a", "a<|image|>"], images=SHADES[0], max_length=4, truncation=True)


@pytest.mark.parametrize("name", ["chatml_processor", "llama3_processor"])
def test_byte_level_tokenizers_keep_their_custom_at_the_beginning(name: str, request: pytest.FixtureRequest) -> None:
    processor: Owl2Processor = request.getfixturevalue(name)
    tokenizer = processor.tokenizer
    assert processor.image_token_id == len(tokenizer) - 1
    pieces = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in ("what is ", " in the image?")]
    opening = [tokenizer.bos_token_id] if name == "llama3_processor" else []
    ids = processor(text="what is <|image|> in the image?", images=SHADES[0])["input_ids"][0]
    assert ids == [*opening, *pieces[0], *[processor.image_token_id] * ROWS, *pieces[1]]
    written = processor(text=f"{tokenizer.bos_token}what is ")["input_ids"][0]
    assert written == [tokenizer.bos_token_id, *pieces[0]]


def test_chat_template_tokenizes_images_of_content_parts(processor: Owl2Processor, tmp_path: Path) -> None:
    SHADES[1].save(tmp_path / "shade.png")
    question = {"type": "text", "text": "what?"}
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": SHADES[0]}, question]}],
        [{"role": "user", "content": "what is it?"}],
        [{"role": "user", "content": [question, {"type": "image", "path": str(tmp_path / "shade.png")}]}],
        [{"role": "user", "content": [{"type": "video", "video": SHADES[2:4]}, question]}],
    ]
    settings = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    single = processor.apply_chat_template(conversations[0], **settings)
    expected = processor(text="USER: <|image|>what? ASSISTANT:", images=SHADES[0], return_tensors="pt")
    assert set(single) == set(expected) and all(torch.equal(single[name], expected[name]) for name in expected)
    batch = processor.apply_chat_template(conversations, **settings, processor_kwargs={"padding": True})
    assert batch["input_ids"].shape[0] == 4
    assert brightness(batch) == pixels_of(processor, SHADES[:4])


def test_templates_that_know_only_text_take_images_too(chatml_processor: Owl2Processor) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a cat"}]
    rendered = chatml_processor.apply_chat_template(messages)
    assert rendered == "<|im_start|>user\n<|image|>what?<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n"


def test_decoding_gives_the_text_back(processor: Owl2Processor) -> None:
    ids = processor(text="<|image|>what is it?", images=SHADES[0])["input_ids"]
    assert processor.decode(ids[0], skip_special_tokens=True) == "what is it?"
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["what is it?"]


def test_serving_engines_learn_the_rows_of_an_image(processor: Owl2Processor) -> None:
    assert processor.replace_image_token({}, 0) == "<|image|>" * ROWS
    assert processor._get_num_multimodal_tokens(image_sizes=[(4, 5), (6, 7)])["num_image_tokens"] == [ROWS, ROWS]
    assert {"pixel_values", "mm_token_type_ids"} < set(processor.model_input_names)
