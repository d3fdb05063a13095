"""What the model sees of a conversation and what it learns of it, to be looked at."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from owl2.processing import Owl2Processor, load_image, load_video
from owl2.processing.collation import IGNORED_LABEL
from owl2.processing.tokenization import TEXT

from .records import Conversation


class Run(NamedTuple):
    """Tokens that follow each other and are of one kind.

    Attributes:
        text: the text that they decode to, or a description of the image or video.
        tokens: how many they are.
    """

    text: str
    tokens: int
    is_visual: bool
    is_supervised: bool


class Preview(NamedTuple):
    """Attributes:
    media: size in pixels of each image and video, in words.
    runs: all tokens.
    """

    media: list[str]
    runs: list[Run]


def preview(conversation: Conversation, processor: Owl2Processor) -> Preview:
    """Encodes a conversation as for training, and says of every token whether it is supervised.

    Raises:
        ValueError: no token is supervised; an image or a video cannot be read.
    """
    images = [load_image(source) for source in conversation.images]
    visuals: list[tuple[str, int]] = []  # in words, and the number of rows
    messages, remaining, num_videos = [], iter(images), 0
    for message in conversation.messages:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "image":
                image = next(remaining)
                name = f"image {len(visuals) - num_videos + 1}: {image.width} x {image.height} pixels"
                visuals.append((name, processor.num_image_tokens))
            elif part["type"] == "video":
                frames = load_video(part["path"], processor.num_frames)
                num_videos += 1
                name = f"video {num_videos}: {len(frames)} frames of {frames[0].width} x {frames[0].height} pixels"
                visuals.append((name, len(frames) * processor.num_image_tokens))
                part = {"type": "video", "video": frames}
            content.append(part)
        messages.append({"role": message["role"], "content": content})
    sample = processor.encode_conversation(messages, images=images or None)
    return Preview([name for name, _ in visuals], list(_runs(sample, visuals, processor)))


def _runs(sample: dict[str, Any], visuals: list[tuple[str, int]], processor: Owl2Processor) -> Iterator[Run]:
    """The tokens of a sample, each of them in one run. Texts are the pieces of one decoding, so that spaces stay."""
    ids, modalities = sample["input_ids"], sample["mm_token_type_ids"]
    supervised = [label != IGNORED_LABEL for label in sample["labels"]]
    remaining, start = iter(visuals), 0
    while start < len(ids):
        if modalities[start] != TEXT:
            name, count = next(remaining)
            yield Run(name, count, True, False)
            start += count
            continue
        end = start
        while end < len(ids) and modalities[end] == TEXT and supervised[end] == supervised[start]:
            end += 1
        before, after = (_decode(ids[:stop], processor) for stop in (start, end))
        yield Run(after[len(before) :], end - start, False, supervised[start])
        start = end


def _decode(ids: list[int], processor: Owl2Processor) -> str:
    return processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
