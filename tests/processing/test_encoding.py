"""Samples for training: what is learnt, and what is not."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from owl2.processing import Owl2Processor
from owl2.processing.image_processor import resize_image

IMAGE = Image.new("RGB", (8, 6), "red")
BLUE = Image.new("RGB", (8, 6), "blue")
IMAGE_ID, ROWS, END, START = 320, 3, 2, 1  # of the processor in conftest.py
ROLES = {"human": "user", "gpt": "assistant"}


def learnt(processor: Owl2Processor, sample: dict[str, Any]) -> str:
    return processor.tokenizer.decode([label for label in sample["labels"] if label != -100])


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)]


def test_ids_and_labels_equal_the_official_ones(processor: Owl2Processor, cases: dict[str, Any]) -> None:
    """In these cases the official masks are right everywhere: its second tokenization finds the same lengths."""
    system = cases["prompts"]["vicuna_v1"][0]["prompt"].split(" USER:")[0]
    for case in cases["preprocess_v1"]:
        conversation = case["after_preprocess_multimodal"]
        if conversation[0]["from"] == "gpt":  # the official code drops such a turn; here that is the data's task
            conversation = conversation[1:]
        messages = [{"role": "system", "content": system}] if case["conv"] == "vicuna_v1" else []
        messages += [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in conversation]
        images = [IMAGE] * case["input_ids"].count(-200)
        sample = processor.encode_conversation(messages, images=images or None)
        ids, labels = [], []
        for token, label in zip(case["input_ids"], case["labels"], strict=True):
            ids += [IMAGE_ID] * ROWS if token == -200 else [token]
            labels += [-100] * ROWS if token == -200 else [label]
        assert sample["input_ids"] == ids and sample["labels"] == labels
        assert sample["mm_token_type_ids"] == [int(token == IMAGE_ID) for token in ids]
        assert ("pixel_values" in sample) == bool(images)


def test_generation_continues_exactly_where_learning_begins(processor: Owl2Processor) -> None:
    messages = turns("<|image|>what is it?", "a cat.", "sure?", "yes")
    sample = processor.encode_conversation(messages, images=[IMAGE])
    for count in (1, 3):
        prompt = processor.apply_chat_template(messages[:count], add_generation_prompt=True)
        length = len(processor(text=prompt, images=[IMAGE])["input_ids"][0])
        assert sample["labels"][length - 1] == -100 and sample["labels"][length] == sample["input_ids"][length]


def test_every_answer_is_learnt_with_its_end(processor: Owl2Processor) -> None:
    sample = processor.encode_conversation(turns("a?", "the cat", "b?", "the mat"))
    assert learnt(processor, sample) == "the cat</s> the mat</s>"


def test_chatml_answers_are_learnt_without_what_follows_their_end(chatml_processor: Owl2Processor) -> None:
    sample = chatml_processor.encode_conversation(
        [{"role": "system", "content": "be a cat"}, *turns("<|image|>what?", "a\n\n cat", "and?", "mat ")], images=IMAGE
    )
    assert learnt(chatml_processor, sample) == "a\n\n cat<|im_end|>mat <|im_end|>"


def test_templates_that_rewrite_earlier_turns_are_refused(processor: Owl2Processor) -> None:
    template = "{% for message in messages %}{{ '[LAST]' if loop.last }}{{ message['content'] }}{% endfor %}"
    rewriting = Owl2Processor(processor.image_processor, processor.tokenizer, template)
    with pytest.raises(ValueError, match="turn 1 differently"):
        rewriting.encode_conversation(turns("a", "b", "c", "d"))


def test_images_inside_content_parts_need_no_second_list(processor: Owl2Processor) -> None:
    parts = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a cat"}]
    sample = processor.encode_conversation(messages)
    plain = processor.encode_conversation(turns("<|image|>what?", "a cat"), images=[IMAGE])
    assert sample["labels"] == plain["labels"] and torch.equal(sample["pixel_values"], plain["pixel_values"])
    assert messages[0]["content"] is parts and len(parts) == 2
    with pytest.raises(ValueError, match="carry 1 images and images= was given"):
        processor.encode_conversation(messages, images=[IMAGE])


def test_frames_of_a_video_are_rows_that_are_not_learnt(processor: Owl2Processor) -> None:
    sample = processor.encode_conversation(turns("<|video|>what?", "a cat"), videos=[[IMAGE, IMAGE]])
    rows = [label for label, kind in zip(sample["labels"], sample["mm_token_type_ids"], strict=True) if kind == 2]
    assert rows == [-100] * 2 * ROWS and sample["pixel_values"].shape == (2, 3, 28, 28)


def test_pixels_that_are_not_normalized_are_the_levels_of_those_that_are(processor: Owl2Processor) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    image, *video = (Image.fromarray(each) for each in noise)
    messages = turns("<|image|><|video|>what?", "a cat")
    wanted = processor.encode_conversation(messages, images=[image], videos=[video])["pixel_values"]
    found = processor.encode_conversation(messages, images=[image], videos=[video], normalize=False)["pixel_values"]
    assert found.dtype == torch.uint8 and found.shape == wanted.shape == (3, 3, 28, 28)
    mean, std = (
        torch.tensor(each).view(-1, 1, 1)
        for each in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    assert torch.equal(found, ((wanted * std + mean) * 255).round().to(torch.uint8))
    size = processor.image_processor.size
    resized = resize_image(image, size["height"], size["width"], processor.image_processor.aspect)
    assert torch.equal(found[0], torch.from_numpy(np.array(resized)).permute(2, 0, 1))


def test_images_in_an_answer_are_not_learnt(processor: Owl2Processor) -> None:
    sample = processor.encode_conversation(turns("what?", "see <|image|> the cat"), images=[IMAGE])
    assert sample["mm_token_type_ids"].count(1) == ROWS and IMAGE_ID not in sample["labels"]
    assert learnt(processor, sample) == "see   the cat</s>"


@pytest.mark.parametrize(
    ("messages", "images", "reason"),
    [
        ([], None, "at least one"),
        ([{"role": "user"}], None, "message 0 must have"),
        (turns("what?"), None, "to be learnt"),
        ([{"role": "assistant", "content": "a"}], None, "chat template refuses"),
        (turns("<|image|>?", "a"), None, r"1 <\|image\|> placeholders .* 0 images"),
        (turns("?", "a"), [IMAGE], r"0 <\|image\|> placeholders .* 1 images"),
    ],
)
def test_conversations_that_teach_nothing_are_errors(
    processor: Owl2Processor, messages: Any, images: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        processor.encode_conversation(messages, images=images)


def test_long_conversations_are_cut_only_on_request_and_never_to_nothing(processor: Owl2Processor) -> None:
    messages = turns("<|image|>what is it?", "a cat.")
    whole = processor.encode_conversation(messages, images=[IMAGE])
    length = len(whole["input_ids"])
    with pytest.raises(ValueError, match=f"{length} tokens, over max_length={length - 2}"):
        processor.encode_conversation(messages, images=[IMAGE], max_length=length - 2)
    cut = processor.encode_conversation(messages, images=[IMAGE], max_length=length - 2, truncation=True)
    assert cut["labels"] == whole["labels"][:-2]
    with pytest.raises(ValueError, match="missing or cut"):
        processor.encode_conversation(messages, images=[IMAGE], max_length=14, truncation=True)
    with pytest.raises(ValueError, match="lose 2 rows"):
        processor.encode_conversation(messages, images=[IMAGE], max_length=9, truncation=True)


def test_the_first_caption_token_follows_the_last_visual_row(processor: Owl2Processor) -> None:
    sample = processor.encode_pair("a cat", IMAGE)
    caption = processor.tokenizer("a cat", add_special_tokens=False)["input_ids"]
    assert sample["input_ids"] == [IMAGE_ID] * ROWS + caption + [END]
    assert sample["labels"] == [-100] * ROWS + caption + [END]
    assert sample["mm_token_type_ids"] == [1] * ROWS + [0] * (len(caption) + 1)
    assert sample["pixel_values"].shape == (1, 3, 28, 28)
    assert "pixel_values" not in processor.encode_pair("a cat")


def test_plain_text_is_learnt_but_for_its_beginning(processor: Owl2Processor, chatml_processor: Owl2Processor) -> None:
    sample = processor.encode_text("a cat")
    assert sample["input_ids"][0] == START and sample["labels"] == [-100, *sample["input_ids"][1:]]
    assert sample["input_ids"][-1] == END
    unopened = chatml_processor.encode_text("a cat")  # this tokenizer opens no text
    assert unopened["labels"] == unopened["input_ids"] and learnt(chatml_processor, unopened) == "a cat<|im_end|>"


@pytest.mark.parametrize("text", ["", "see <|image|>", "see <|video|>"])
def test_empty_texts_and_placeholders_in_plain_text_are_errors(processor: Owl2Processor, text: str) -> None:
    for encode in (processor.encode_pair, processor.encode_text):
        with pytest.raises(ValueError, match="empty|placeholder"):
            encode(text)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_samples_keeps_them_and_learns_no_padding(processor: Owl2Processor, side: str) -> None:
    samples = [
        processor.encode_text("a cat"),
        processor.encode_pair("the mat", IMAGE),
        processor.encode_conversation(turns("<|image|><|image|>a?", "b"), images=[BLUE, IMAGE]),
    ]
    batch = processor.pad(samples, padding_side=side)
    length = max(len(sample["input_ids"]) for sample in samples)
    fillers = {
        "input_ids": processor.tokenizer.pad_token_id,
        "attention_mask": 0,
        "mm_token_type_ids": 0,
        "labels": -100,
    }
    for name, filler in fillers.items():
        assert batch[name].dtype == torch.int64 and batch[name].shape == (3, length)
        for row, sample in zip(batch[name].tolist(), samples, strict=True):
            padding = [filler] * (length - len(sample[name]))
            assert row == (padding + sample[name] if side == "left" else sample[name] + padding)
    assert torch.equal(batch["pixel_values"], torch.cat([sample["pixel_values"] for sample in samples[1:]]))


def test_batches_of_text_alone_have_no_pixels(processor: Owl2Processor) -> None:
    assert "pixel_values" not in processor.pad([processor.encode_text("a")] * 2)


def test_samples_that_do_not_fit_together_are_an_error(processor: Owl2Processor) -> None:
    sample = processor.encode_text("a")
    with pytest.raises(ValueError, match="sample 1 has the entries"):
        processor.pad([sample, {"input_ids": [1]}])
    with pytest.raises(ValueError, match="nothing to pad"):
        processor.pad([])


def test_arrays_are_images_too(processor: Owl2Processor) -> None:
    assert torch.equal(
        processor.encode_pair("a", np.asarray(IMAGE))["pixel_values"], processor.encode_pair("a", IMAGE)["pixel_values"]
    )
