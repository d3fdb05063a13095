"""Turns the messages of a request into a prompt: messages for the chat template, and the images in their order."""

import asyncio
from typing import Any

from PIL import Image

from owl2.serving.engine.errors import InvalidRequest
from owl2.serving.engine.prompts import Prompt

from .media import contents_of_data_url, decode_image, decode_video
from .schemas import ImagePart, Message, TextPart, VideoPart
from .state import ServerState


async def prompt_of_messages(state: ServerState, messages: list[Message]) -> Prompt:
    """Decodes and tokenizes outside the event loop.

    Raises:
        InvalidRequest: An image cannot be read (the error says which), or a limit is exceeded.
    """
    limits = state.settings.limits
    if len(messages) > limits.messages:
        raise InvalidRequest(f"{len(messages)} messages are over the limit of {limits.messages}", "messages")
    media = [
        (f"messages[{index}].content[{place}]", part)
        for index, message in enumerate(messages)
        for place, part in enumerate(message.parts)
        if not isinstance(part, TextPart)
    ]
    if len(media) > limits.images:
        raise InvalidRequest(f"{len(media)} images and videos are over the limit of {limits.images}", "messages")
    contents = await asyncio.gather(*(_contents(state, part, param) for param, part in media))
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(state.preparation, _prepare, state, messages, media, contents)


async def _contents(state: ServerState, part: ImagePart | VideoPart, param: str) -> bytes:
    if isinstance(part, ImagePart) and part.url.startswith(("http://", "https://")):
        return await asyncio.get_running_loop().run_in_executor(state.fetches, state.fetcher.fetch, part.url, param)
    return contents_of_data_url(part.url, "image" if isinstance(part, ImagePart) else "video", param)


def _prepare(
    state: ServerState,
    messages: list[Message],
    media: list[tuple[str, ImagePart | VideoPart]],
    contents: list[bytes],
) -> Prompt:
    images: list[Image.Image] = []
    videos: list[list[Image.Image]] = []
    limits, num_frames = state.settings.limits, state.prompts.processor.num_frames
    for (param, part), content in zip(media, contents, strict=True):
        if isinstance(part, ImagePart):
            images.append(decode_image(content, limits, len(images) + 1, param))
        else:
            videos.append(decode_video(content, limits, num_frames, param))
    return state.prompts.of_messages([_plain(message) for message in messages], images, videos)


def _plain(message: Message) -> dict[str, Any]:
    """A message in the form of chat templates."""
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    kinds = {ImagePart: "image", VideoPart: "video"}
    content = [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": kinds[type(part)]}
        for part in message.parts
    ]
    return {"role": role, "content": content}
