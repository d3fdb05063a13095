"""Turns messages, texts or ids into the engine's prompts. Ids of placeholders come from images, never from a user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from owl2.processing import Owl2Processor
from owl2.processing.control_tokens import protect, written_out

from .errors import InvalidRequest


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt.

    Attributes:
        input_ids: The image token's id at each row of an image.
        is_vision: Whether each token is a row of an image.
        pixel_values: [N, 3, H, W] of the images and frames in the order of their rows, if there are any.
        text: As the processor reads it, each placeholder standing for all rows of an image; control tokens and
            placeholders that were typed are protected. Empty for a prompt of ids. See `PromptBuilder.shown`.
    """

    input_ids: list[int]
    is_vision: list[bool]
    pixel_values: torch.Tensor | None = None
    text: str = ""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_images(self) -> int:
        return 0 if self.pixel_values is None else len(self.pixel_values)


class PromptBuilder:
    """Tokenizes prompts; its methods are called by one thread at a time.

    Args:
        vocab_size: Size of the language decoder's vocabulary: ids from there on have no embedding.
    """

    def __init__(self, processor: Owl2Processor, vocab_size: int) -> None:
        self.processor = processor
        self.vocab_size = vocab_size

    def of_messages(
        self,
        messages: Sequence[dict[str, Any]],
        images: Sequence[Image.Image] = (),
        videos: Sequence[Sequence[Image.Image]] = (),
    ) -> Prompt:
        """The prompt for the next turn of a conversation.

        Args:
            messages: `role` and `content`, a text or parts of type text, image and video.
            images, videos: Images and videos of the parts, in their order.

        Raises:
            InvalidRequest: The chat template refuses the messages, or a text is not Unicode.
        """
        for index, message in enumerate(messages):
            content = message["content"]
            texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            for text in texts:
                _check_unicode(text, f"messages[{index}].content")
        protected = protect(messages, self.processor.protected_tokens)  # what a client writes is text
        try:
            text = self.processor.apply_chat_template(protected, add_generation_prompt=True)
        except ValueError as error:
            raise InvalidRequest(str(error), "messages") from error
        return self._encode(text, images, videos, "messages")

    def of_text(self, text: str, param: str = "prompt") -> Prompt:
        """A text as it is, opened by the beginning-of-sequence token if the tokenizer does so."""
        prompt = self._encode(self.protected(text, param), (), (), param)
        if not len(prompt):
            raise InvalidRequest("the prompt is empty", param)
        return prompt

    def protected(self, text: str, param: str) -> str:
        """A text of a client as the processor is to read it, whatever tokens it spells.

        Raises:
            InvalidRequest: It is not Unicode.
        """
        _check_unicode(text, param)
        (message,) = protect([{"content": text}], self.processor.protected_tokens)
        return message["content"]

    def shown(self, prompt: Prompt) -> str:
        """The text of a prompt as it was typed."""
        return written_out(prompt.text, self.processor.protected_tokens)

    def of_ids(self, ids: Sequence[int], param: str = "prompt") -> Prompt:
        """The prompt of token ids of the vocabulary."""
        if not ids:
            raise InvalidRequest("the prompt is empty", param)
        wrong = [token for token in ids if not 0 <= token < self.vocab_size]
        if wrong:
            raise InvalidRequest(f"token {wrong[0]} is not in the vocabulary of {self.vocab_size} tokens", param)
        return Prompt(list(ids), [False] * len(ids))

    def _encode(
        self, text: str, images: Sequence[Image.Image], videos: Sequence[Sequence[Image.Image]], param: str
    ) -> Prompt:
        try:
            inputs = self.processor(
                text=text,
                images=list(images) or None,
                videos=[[list(frames) for frames in videos]] if videos else None,
                return_tensors=None,
            )
        except ValueError as error:
            raise InvalidRequest(str(error), param) from error
        (ids,), (types,) = inputs["input_ids"], inputs["mm_token_type_ids"]
        is_vision = [modality != 0 for modality in types]
        foreign = [
            token
            for token, visual in zip(ids, is_vision, strict=True)
            if not visual and (token >= self.vocab_size or token == self.processor.image_token_id)
        ]
        if foreign:
            name = self.processor.tokenizer.convert_ids_to_tokens(foreign[0])
            raise InvalidRequest(f"the model has no embedding for the token {name!r}", param)
        pixels = inputs.get("pixel_values")
        return Prompt(list(ids), is_vision, None if pixels is None else torch.as_tensor(pixels), text)


def _check_unicode(text: str, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the text is not valid Unicode: {error}", param) from error
