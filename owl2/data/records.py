"""The two kinds of training records: image-text pairs (stage 1) and conversations (stage 2)."""

from typing import Any, NamedTuple


class Pair(NamedTuple):
    """The file of an image, and its caption."""

    id: str
    image: str
    caption: str


class Conversation(NamedTuple):
    """Chat messages in the transformers form; the image files fill the `{"type": "image"}` parts in their order."""

    id: str
    messages: list[dict[str, Any]]
    images: tuple[str, ...] = ()


def turns(exchanges: list[tuple[str, str]], num_images: int = 0) -> list[dict[str, Any]]:
    """Messages of (question, answer) exchanges, the images before the first question as in the published prompt."""
    messages: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(exchanges):
        images = [{"type": "image"}] * num_images if index == 0 else []
        messages.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages
