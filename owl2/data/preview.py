"""Shows what the model sees of a conversation and what it learns from it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from owl2.checkpoints.small_language_model import SMALLEST_VOCABULARY, train_tokenizer
from owl2.labels import IGNORE_INDEX
from owl2.processing import Owl2ImageProcessor, Owl2Processor, load_image, load_video
from owl2.processing.control_tokens import control_tokens_in
from owl2.processing.tokenization import TEXT

from .records import Conversation


class TokenRun(NamedTuple):
    """Tokens that follow each other and are of one kind.

    Attributes:
        text: The text that they decode to, or a description of the image or video.
        tokens: The number of tokens.
    """

    text: str
    tokens: int
    is_visual: bool
    is_supervised: bool


class Preview(NamedTuple):
    """A conversation as the model sees it.

    Attributes:
        media: Name and size in pixels of each image and video, in words.
        pictures: Each image, and the first frame of each video.
        runs: All tokens.
        control_tokens: Number of the turn, from 1, and each control token in its texts.
    """

    media: list[str]
    pictures: list[Image.Image]
    runs: list[TokenRun]
    control_tokens: list[tuple[int, str]]


def plain_processor() -> Owl2Processor:
    """A processor without a model: the published frame, one token a byte."""
    return Owl2Processor(Owl2ImageProcessor(), train_tokenizer([], SMALLEST_VOCABULARY))


def preview(conversation: Conversation, processor: Owl2Processor) -> Preview:
    """Encodes a conversation as for training, and says of every token whether it is supervised.

    Raises:
        ValueError: No token is supervised; an image or a video cannot be read.
    """
    images = [load_image(source) for source in conversation.images]
    visuals: list[tuple[str, int]] = []  # in words, and the number of rows
    pictures: list[Image.Image] = []
    files: list[str] = []
    messages, remaining, num_videos = [], iter(zip(images, conversation.images, strict=True)), 0
    for message in conversation.messages:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "image":
                image, source = next(remaining)
                pictures.append(image)
                files.append(_file(source))
                name = f"image {len(visuals) - num_videos + 1}: {image.width} x {image.height} pixels"
                visuals.append((name, processor.num_image_tokens))
            elif part["type"] == "video":
                frames = load_video(part["path"], processor.num_frames)
                num_videos += 1
                pictures.append(frames[0])
                files.append(_file(part["path"]))
                size = f"{len(frames)} frames of {frames[0].width} x {frames[0].height} pixels"
                name = f"video {num_videos}: {size}"
                visuals.append((name, len(frames) * processor.num_image_tokens))
                part = {"type": "video", "video": frames}
            content.append(part)
        messages.append({**message, "content": content})
    sample = processor.encode_conversation(messages, images=images or None)
    media = [name + file for (name, _), file in zip(visuals, files, strict=True)]
    control_tokens = control_tokens_in(conversation.messages, processor.control_tokens)
    return Preview(media, pictures, list(_runs(sample, visuals, processor)), control_tokens)


def _file(source: Any) -> str:
    """The path of an image or video, if it is a file."""
    return "" if str(source).startswith("data:") else f", {source}"


def _runs(sample: dict[str, Any], visuals: list[tuple[str, int]], processor: Owl2Processor) -> Iterator[TokenRun]:
    """The tokens of a sample, each of them in one run. Texts are the pieces of one decoding, so that spaces stay."""
    ids, modalities = sample["input_ids"], sample["mm_token_type_ids"]
    supervised = [label != IGNORE_INDEX for label in sample["labels"]]
    remaining, start = iter(visuals), 0
    while start < len(ids):
        if modalities[start] != TEXT:
            name, count = next(remaining)
            yield TokenRun(name, count, True, False)
            start += count
            continue
        end = start
        while end < len(ids) and modalities[end] == TEXT and supervised[end] == supervised[start]:
            end += 1
        before, after = (_decode(ids[:stop], processor) for stop in (start, end))
        yield TokenRun(after[len(before) :], end - start, False, supervised[start])
        start = end


def _decode(ids: list[int], processor: Owl2Processor) -> str:
    return processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
