"""One answer in a conversation, whoever gave it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Reply:
    """One answer.

    Attributes:
        prompt: The prompt as the model got it, in which a placeholder stands for all rows of an image; with a server,
            the last message.
        images, videos: Numbers in the whole conversation so far.
        input_tokens: Number of tokens of the prompt, visual rows included.
        finish_reason: "stop" if the model ended its turn, "length" if it ran out of tokens.
        cut_characters: Number of characters of the text that were cut to fit the context.
    """

    prompt: str
    text: str
    images: int
    videos: int
    input_tokens: int
    output_tokens: int
    seconds: float
    finish_reason: str
    cut_characters: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
