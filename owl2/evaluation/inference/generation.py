"""Greedy answers to a batch of prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor


@torch.inference_mode()
def greedy_texts(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    inputs: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    stop: Sequence[str] = (),
    **settings: Any,
) -> list[str]:
    """The texts that greedy decoding adds to a left-padded batch, without special tokens, cut before the first stop.

    Args:
        inputs: Inputs of `generate`, on the device of the model.
        settings: Further arguments of `generate`.
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
