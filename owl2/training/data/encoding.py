"""Encodes a sample of a stage for the trainer: token ids, labels, and pixels as levels from 0 to 255.

Pixels stay uint8 until they are on the device (`owl2.data.decoding.normalize_pixels`). (n images and frames, R pixels a
side)
"""

from typing import Any

import numpy as np
import torch

from owl2.data.records import PLAIN_TEXT, Conversation, turns
from owl2.data.skipped import Fault, InvalidSample
from owl2.processing import Owl2Processor, load_image
from owl2.processing.control_tokens import control_tokens_in
from owl2.processing.image_processor import resize_image
from owl2.training.recipe.data import DataSettings

Encoded = dict[str, Any]

OPINION = "opinion"
"""The entry of a sample and a batch, [B, 8]: probabilities of five levels, score and deviation in levels, source."""


def encode_caption(processor: Owl2Processor, data: DataSettings, caption: str) -> Encoded:
    """Encodes a caption as `Owl2Processor.encode_pair` does, without its image; what exceeds `max_length` is cut off.

    Raises:
        InvalidSample: It holds a control token, and those are refused.
    """
    _refuse_control_tokens(turns([("", caption)])[1:], processor, data)
    sample = processor.encode_pair(caption, control_tokens=data.control_tokens)
    return {name: row[: data.max_length] for name, row in sample.items()}


def encode_conversation(processor: Owl2Processor, conversation: Conversation, data: DataSettings) -> Encoded:
    """Encodes a conversation as `Owl2Processor.encode_conversation` does; its text is cut off at `max_length`.

    Plain text is encoded as by `Owl2Processor.encode_text`. With `last_answer_only`, only the last of the answers to be
    learnt is learnt; those before it are read.

    Returns:
        Lists `input_ids`, ..., and `pixel_values` uint8 [n, 3, R, R] if there are images or videos.

    Raises:
        InvalidSample: A text holds a control token, and those are refused; an image cannot be read, or what
            `max_length` leaves has lost an image or every answer.
    """
    _refuse_control_tokens(conversation.messages, processor, data)
    if conversation.messages[0]["role"] == PLAIN_TEXT:
        sample = processor.encode_text(conversation.messages[0]["content"][0]["text"])
        return {name: row[: data.max_length] for name, row in sample.items()}
    limits: dict[str, Any] = {
        "max_length": data.max_length,
        "truncation": True,
        "control_tokens": data.control_tokens,
    }
    if data.last_answer_only:
        conversation = conversation._replace(messages=_last_answer_only(conversation.messages))
    if any(part["type"] == "video" for message in conversation.messages for part in message["content"]):
        try:
            images = list(conversation.images) or None
            return processor.encode_conversation(conversation.messages, images=images, normalize=False, **limits)
        except ValueError as error:
            raise InvalidSample(Fault.NOT_ENCODED, str(error)) from error
    try:
        sample = processor.encode_conversation(conversation.messages, with_pixels=False, **limits)
    except ValueError as error:
        raise InvalidSample(Fault.NOT_ENCODED, str(error)) from error
    if conversation.images:
        sample["pixel_values"] = torch.stack(
            [_resized(image, processor, data.image_size) for image in conversation.images]
        )
    return sample


def _refuse_control_tokens(messages: list[dict[str, Any]], processor: Owl2Processor, data: DataSettings) -> None:
    if data.control_tokens == "refuse" and (found := control_tokens_in(messages, processor.control_tokens)):
        text = f"the text holds the control token {found[0][1]!r}: remove it, or learn it as text"
        raise InvalidSample(Fault.CONTROL_TOKEN, f"{text} (data.control_tokens=text)")


def _last_answer_only(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    learnt = [
        index for index, each in enumerate(messages) if each["role"] == "assistant" and each.get("weight", 1) != 0
    ]
    return [{**each, "weight": 0} if index in learnt[:-1] else each for index, each in enumerate(messages)]


def _resized(source: str, processor: Owl2Processor, size: int) -> torch.Tensor:
    """The levels [3, R, R] of an image, resized as for inference."""
    try:
        image = load_image(source)
    except ValueError as error:
        raise InvalidSample(Fault.DAMAGED_IMAGE, str(error)) from error
    resized = resize_image(image, size, size, processor.image_processor.aspect, processor.image_processor.image_mean)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
