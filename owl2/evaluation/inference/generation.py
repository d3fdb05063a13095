"""Greedy answers to many prompts, in batches of like length; and the perplexity of text."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from owl2.data.records import turns
from owl2.data.training_set import PixelStore
from owl2.labels import IGNORE_INDEX
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor


@torch.inference_mode()
def answer(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    questions: Sequence[str],
    images: Sequence[str] | None = None,
    pixels: PixelStore | None = None,
    max_new_tokens: int = 8,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers, without special tokens and surrounding space, in the order of the questions.

    Args:
        images: the image of each question; without them the questions are asked blind.
        pixels: where the names of the images lead.
        on_batch: told how many questions a batch answered.

    Raises:
        ValueError: images without pixels, or the reverse.
    """
    if (images is None) != (pixels is None):
        raise ValueError("Give both images and their pixels, or neither.")
    model.eval()
    prompts = [_prompt(processor, question, images is not None) for question in questions]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]["input_ids"]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = processor.pad([prompts[index] for index in indices], padding_side="left")
        if images is not None and pixels is not None:
            batch["pixel_values"] = pixels[[images[index] for index in indices]].to(model.dtype)
        texts = greedy_texts(model, processor, batch, max_new_tokens)
        for index, text in zip(indices, texts, strict=True):
            answers[index] = text.strip()
        on_batch(len(indices))
    return answers


@torch.inference_mode()
def greedy_texts(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    inputs: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    stop: Sequence[str] = (),
    **settings: Any,
) -> list[str]:
    """What greedy decoding adds to a batch padded on the left, without special tokens, cut before the first stop.

    Args:
        inputs: of `generate`, on the device of the model.
        settings: further ones of `generate`.
    """
    stopping = {"stop_strings": list(stop), "tokenizer": processor.tokenizer} if stop else {}
    output = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=processor.tokenizer.pad_token_id,
        **stopping,
        **settings,
    )
    texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text[: min((text.find(end) for end in stop if end in text), default=len(text))] for text in texts]


def _prompt(processor: Owl2Processor, question: str, with_image: bool) -> dict[str, list[int]]:
    """Tokens of a prompt whose pixels come from elsewhere."""
    messages = turns([(question, "")], num_images=int(with_image))[:1]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return processor.encode_prompt(text)


@torch.inference_mode()
def perplexity(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, texts: Sequence[str], batch_size: int = 8
) -> float:
    """Perplexity per token of plain texts, their end included."""
    model.eval()
    samples = sorted((processor.encode_text(text) for text in texts), key=lambda sample: len(sample["input_ids"]))
    total, count = 0.0, 0
    for start in range(0, len(samples), batch_size):
        batch = processor.pad(samples[start : start + batch_size])
        supervised = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
        total += float(model(**batch, supervised_logits_only=True).loss) * supervised
        count += supervised
    return math.exp(total / count)


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a reply holds one of the accepted answers as whole words, whatever their case."""
    return any(re.search(rf"\b{re.escape(accepted)}\b", text, re.IGNORECASE) for accepted in answers)
