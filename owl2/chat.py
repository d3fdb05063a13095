"""A conversation with a model: several turns with images and videos, answers as they are written."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, TextStreamer

from .modeling import Owl2ForConditionalGeneration
from .modeling.prompt_cache import PromptCache
from .processing import Owl2Processor, load_image, load_video
from .processing.control_tokens import protect, written_out
from .reply import Reply

LOWEST_TEMPERATURE = 1e-6
"""Below this temperature sampling is greedy: scores that are divided by it would overflow."""
ANSWER_SHARE = 4
"""A prompt that is cut leaves at most this fraction of the context, 1 in 4, for the answer."""


class ChatSession:
    """Messages, images and videos of a conversation, and the model that answers.

    Keys and values of the conversation are kept from turn to turn, so that each turn and image is read once. Whatever
    of `messages`, `images` and `videos` is changed in between is read anew, with all that follows it.

    Args:
        system: Text in front of the conversation; published models were trained without.
        truncate: Cut the newest text from its end where a prompt does not fit; an image is never cut.

    Raises:
        ValueError: The processor gives an image another number of rows than the model takes.
    """

    def __init__(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        system: str | None = None,
        truncate: bool = False,
    ) -> None:
        if processor.num_image_tokens != model.config.tokens_per_image:
            raise ValueError(
                f"the processor gives an image {processor.num_image_tokens} tokens, but the model takes "
                f"{model.config.tokens_per_image}: they do not belong together"
            )
        self.model = model
        self.processor = processor
        self.system = system
        self.truncate = truncate
        self._cache = PromptCache(model.config.tokens_per_image)
        self.reset()

    @property
    def place(self) -> str:
        """The device that the model runs on."""
        return str(self.model.device)

    @property
    def context(self) -> int:
        """The largest number of tokens of prompt and answer together."""
        return self.model.config.text_config.max_position_embeddings

    def reset(self) -> None:
        """Forgets the conversation, and images that wait for their turn."""
        self.messages: list[dict[str, Any]] = []
        if self.system:
            self.messages.append({"role": "system", "content": [{"type": "text", "text": self.system}]})
        self.images: list[Image.Image] = []
        self.videos: list[list[Image.Image]] = []
        self.waiting_images: list[Image.Image] = []
        self.waiting_videos: list[list[Image.Image]] = []
        self._cache.clear()

    def add_image(self, source: Any) -> Image.Image:
        """Reads an image for the next turn; see `load_image` for sources and errors."""
        image = load_image(source)
        self.waiting_images.append(image)
        return image

    def add_video(self, source: Any) -> int:
        """Reads the frames of a video for the next turn; see `load_video`.

        Returns:
            Number of frames.
        """
        frames = load_video(source, self.processor.num_frames)
        self.waiting_videos.append(frames)
        return len(frames)

    def ask(
        self,
        text: str,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """One turn. If it fails or is interrupted, the conversation is as before.

        The waiting images and videos go in front of the text, as in the published prompt, or where the text has
        placeholders (`<|image|>`, `<|video|>`).

        Args:
            max_new_tokens: Maximum number of tokens of the answer; fewer where the context ends.
            temperature: 0 takes the most likely token each time, higher values sample.
            on_text: Is called with each piece of the answer as it is written.

        Raises:
            ValueError: The prompt does not fit the context (both numbers are given), the numbers of placeholders and of
                images differ, or a setting is out of range.
        """
        if max_new_tokens < 1 or not 0 <= temperature < math.inf:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} must be at least 1, and temperature={temperature} a number from 0 on"
            )
        started = time.perf_counter()
        kept, prompt, inputs = self._fit(text, max_new_tokens)
        length = inputs["input_ids"].shape[1]
        output = self._generate(inputs, min(max_new_tokens, self.context - length), temperature, on_text)
        tokens = output[length:].tolist()
        answer = self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        self.images += self.waiting_images
        self.videos += self.waiting_videos
        self.messages += [
            self._user_message(kept),
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        self.waiting_images, self.waiting_videos = [], []
        return Reply(
            prompt=prompt,
            text=answer,
            images=len(self.images),
            videos=len(self.videos),
            input_tokens=length,
            output_tokens=len(tokens),
            seconds=round(time.perf_counter() - started, 3),
            finish_reason="stop" if tokens and tokens[-1] in self._end_tokens() else "length",
            cut_characters=len(text) - len(kept),
        )

    def _generate(
        self, inputs: BatchFeature, max_new_tokens: int, temperature: float, on_text: Callable[[str], None] | None
    ) -> torch.Tensor:
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature}
        if temperature < LOWEST_TEMPERATURE:
            sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.model.config.text_config.routing != "modality":
            self._cache.clear()  # a hash of the whole prompt routes each of its tokens
        (ids,), (types,) = inputs["input_ids"], inputs["mm_token_type_ids"]
        cache = self._cache.shared_with(ids, types != 0, inputs.get("pixel_values"))
        try:
            (output,) = self.model.generate(
                **inputs.to(self.model.device, dtype=self.model.dtype),
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.processor.tokenizer.pad_token_id,
                eos_token_id=self._end_tokens(),
                streamer=_Streamer(self.processor.tokenizer, on_text) if on_text else None,
                **sampling,
            )
        except BaseException:
            self._cache.take_back()
            raise
        self._cache.keep(output)
        return output  # [S]

    def _end_tokens(self) -> list[int]:
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.processor.tokenizer.eos_token_id
        return list(end) if isinstance(end, list | tuple) else [end]

    def _fit(self, text: str, max_new_tokens: int) -> tuple[str, str, BatchFeature]:
        """The text, cut if it must be and may be, with the prompt and the inputs."""
        prompt, inputs = self._encode(text)
        length = inputs["input_ids"].shape[1]
        if length < self.context:
            return text, prompt, inputs
        if not self.truncate:
            raise ValueError(
                f"the prompt takes {length} tokens, but the context of the model holds {self.context} with the answer: "
                "shorten the text, pass fewer images, or start again. Text is cut only on request (truncate)"
            )
        room = self.context - min(max_new_tokens, self.context // ANSWER_SHARE)
        while length > room:
            shorter = self._cut(text, length - room)
            if shorter == text:
                raise ValueError(
                    f"images, earlier turns and text before a placeholder take {length} tokens, but the context of the "
                    f"model leaves them {room}: pass fewer images or start again. Only text is ever cut"
                )
            text = shorter
            prompt, inputs = self._encode(text)
            length = inputs["input_ids"].shape[1]
        return text, prompt, inputs

    def _cut(self, text: str, surplus: int) -> str:
        """The text without its last `surplus` tokens, but never without a placeholder."""
        placeholders = (self.processor.image_token, self.processor.video_token)
        start = max(text.rfind(token) + len(token) if token in text else 0 for token in placeholders)
        offsets = self.processor.tokenizer(text[start:], add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        if surplus >= len(offsets):
            return text[:start]
        return text[: start + min(offsets[-surplus][0], len(text) - start - 1)]

    def _encode(self, text: str) -> tuple[str, BatchFeature]:
        tokens = self.processor.control_tokens
        messages = protect([*self.messages, self._user_message(text)], tokens)  # what is typed is text
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = self.processor(
            text=prompt,
            images=[*self.images, *self.waiting_images] or None,
            videos=[*self.videos, *self.waiting_videos] or None,
            return_tensors="pt",
        )
        return written_out(prompt, tokens), inputs

    def _user_message(self, text: str) -> dict[str, Any]:
        parts = []
        if self.processor.image_token not in text:
            parts += [{"type": "image"}] * len(self.waiting_images)
        if self.processor.video_token not in text:
            parts += [{"type": "video"}] * len(self.waiting_videos)
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


class _Streamer(TextStreamer):
    """Hands whole words to a function instead of printing them."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text
        self.begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if not self.begun:
            text = text.lstrip()  # the space between the prompt and the answer
            self.begun = bool(text)
        if text:
            self.on_text(text)
