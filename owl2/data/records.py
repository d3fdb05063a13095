"""The kinds of training records: image-text pairs (stage 1), conversations and plain text (stage 2)."""

from typing import Any, NamedTuple

PLAIN_TEXT = "text"
"""The role of the only message of a record that is not a conversation."""


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


def plain_text(id: str, text: str) -> Conversation:
    """A record of text that is learnt as it is, outside any conversation."""
    return Conversation(id, [{"role": PLAIN_TEXT, "content": [{"type": "text", "text": text}]}])


def turns(exchanges: list[tuple[str, str]], num_images: int = 0) -> list[dict[str, Any]]:
    """Messages of (question, answer) exchanges, the images before the first question as in the published prompt."""
    messages: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(exchanges):
        images = [{"type": "image"}] * num_images if index == 0 else []
        messages.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages
