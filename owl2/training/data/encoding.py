"""One sample of a stage as the trainer takes it: token ids, labels, and pixels as levels from 0 to 255.

Pixels stay uint8 until they are on the device (`owl2.data.decoding.normalize_pixels`). (n images and frames, R pixels a
side)
"""

from typing import Any

import numpy as np
import torch

from owl2.data.records import Conversation
from owl2.data.skipped import Fault, InvalidSample
from owl2.processing import Owl2Processor, load_image
from owl2.processing.image_processor import resize_image

Encoded = dict[str, Any]

OPINION = "opinion"
"""Entry of a sample and a batch, [B, 8]: probabilities of the five levels, score and deviation in levels, source."""


def encode_caption(processor: Owl2Processor, max_length: int, caption: str) -> Encoded:
    """A caption as `Owl2Processor.encode_pair` encodes it without its image; what exceeds `max_length` is cut off."""
    return {name: row[:max_length] for name, row in processor.encode_pair(caption).items()}


def encode_conversation(
    processor: Owl2Processor, conversation: Conversation, image_size: int, max_length: int
) -> Encoded:
    """A conversation as `Owl2Processor.encode_conversation` encodes it, text cut off at `max_length`.

    Returns:
        Lists `input_ids`, ..., and `pixel_values` uint8 [n, 3, R, R] if there are images or videos.

    Raises:
        InvalidSample: an image cannot be read, or what `max_length` leaves has lost an image or every answer.
    """
    limits: dict[str, Any] = {"max_length": max_length, "truncation": True}
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
        sample["pixel_values"] = torch.stack([_resized(image, processor, image_size) for image in conversation.images])
    return sample


def _resized(source: str, processor: Owl2Processor, size: int) -> torch.Tensor:
    """Levels [3, R, R] of an image, resized as for inference."""
    try:
        image = load_image(source)
    except ValueError as error:
        raise InvalidSample(Fault.DAMAGED_IMAGE, str(error)) from error
    resized = resize_image(image, size, size, processor.image_processor.aspect, processor.image_processor.image_mean)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
