"""Turns text, images and videos into the inputs of the model; every position is decided here.

B texts, S tokens, N images and frames, H x W pixels, Q learnable queries. A placeholder `<|image|>` becomes Q + 1
tokens (the queries and the end-of-image token), `<|video|>` as many for each frame. `mm_token_type_ids` (0 text, 1
image, 2 video) is the paper's modality indicator M (section 3.2).
"""

from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.processing_utils import MultiModalData

from .call_settings import CallSettings
from .chat_templates import extend_to_media, published_template
from .collation import encoded_sample, pad_encoded, pad_rows
from .control_tokens import ControlTokens, control_tokens_in, protect
from .conversation import (
    Message,
    assistant_spans,
    check_messages,
    media_of_conversation,
    supervised_spans,
    tokens_inside,
)
from .image_loading import load_image
from .image_processor import Owl2ImageProcessorPil
from .media import share_images, share_videos
from .official_layout import load_tokenizer, settings_from_model
from .tokenization import (
    IMAGE,
    TEXT,
    VIDEO,
    PlaceholderTokenizer,
    TokenSequence,
    beginning_of_sequence,
    control_tokens_of,
    prepare_tokenizer,
)
from .video import load_video


class ChatTemplateError(ValueError, jinja2.TemplateError):
    """A chat template cannot render messages: it is an error of ours and, for libraries that catch those, of Jinja."""


class Owl2Processor(ProcessorMixin):
    """Image processor, tokenizer and chat template of mPLUG-Owl2 in one.

    Args:
        image_processor: Gives `pixel_values`.
        tokenizer: Any fast tokenizer. It gets `image_token` where it has none, and a padding token (its unknown token,
            else its end-of-sequence token); a LLaMA tokenizer is replaced by one whose ids are SentencePiece's.
        chat_template: Jinja template of a conversation. By default the tokenizer's own; where it has none, that of
            the published model. A template that knows only text is extended to images and videos.
        num_image_tokens: Rows of one image, Q + 1.
        image_token, video_token: Placeholders in a text; only the first is a token.
        num_frames: Frames taken from a longer video.

    Raises:
        ValueError: A number is not positive, or the tokenizer is not a fast one.
    """

    def __init__(
        self,
        image_processor: Owl2ImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | dict[str, str] | None = None,
        num_image_tokens: int = 65,
        image_token: str = "<|image|>",
        video_token: str = "<|video|>",
        num_frames: int = 8,
    ) -> None:
        if num_image_tokens < 1 or num_frames < 1:
            raise ValueError(f"num_image_tokens={num_image_tokens} and num_frames={num_frames} must be at least 1")
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        self.video_token = video_token
        self.num_frames = num_frames
        super().__init__(image_processor, prepare_tokenizer(tokenizer, image_token))
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(image_token)
        self._beginning = beginning_of_sequence(self.tokenizer)
        template = chat_template or self.tokenizer.chat_template or published_template(image_token, video_token)
        self.chat_template: str | dict[str, str]
        if isinstance(template, dict):
            self.chat_template = {name: self._complete_chat_template(text) for name, text in template.items()}
        else:
            self.chat_template = self._complete_chat_template(template)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turns texts with their images and videos into the inputs of the model.

        Args:
            images: One image, a flat list consumed in the order of the placeholders over all texts, or one list for
                each text; an image is whatever `load_image` reads.
            text: One text or a list, with `image_token` and `video_token` where images and videos stand.
            videos: Given like `images`; a video is whatever `load_video` reads (see `share_videos` for lists of
                frames).
            kwargs: See `CallSettings`; as in any processor of transformers, they may be grouped (`text_kwargs={...}`).

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids`, each [B, S]; `pixel_values` [N, 3, H, W] with images and
            frames in the order of their placeholders over all texts, absent if there are none.

        Raises:
            ValueError: Numbers of placeholders and of images or videos differ; a text is too long; texts of unequal
                length are asked for as tensors without padding; an image or a video cannot be read.
        """
        if audio is not None:
            raise ValueError("mPLUG-Owl2 takes text, images and videos, no audio")
        settings = CallSettings.of(kwargs)
        truncates, max_length = settings.truncates, settings.max_length
        sequences, pixels = self._tokenize(
            _check_texts(text), images, videos, settings.num_frames, settings.add_special_tokens, settings.images
        )
        for index, sequence in enumerate(sequences):
            sequence.truncate(max_length, truncates, f"text {index}")
        data: dict[str, Any] = pad_rows(
            self._rows(sequences, settings),
            self.tokenizer.pad_token_id,
            settings.padding,
            settings.padding_side or self.tokenizer.padding_side,
            max_length,
            settings.pad_to_multiple_of,
        )
        lengths = [len(row) for row in data["input_ids"]]
        if settings.return_tensors is not None and len(set(lengths)) > 1:
            raise ValueError(f"texts of {lengths} tokens cannot be one tensor: pass padding=True")
        if settings.return_length:
            data["length"] = lengths
        if pixels:
            data["pixel_values"] = _stacked(pixels)  # [N, 3, H, W]
        return BatchFeature(data, tensor_type=settings.return_tensors)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Renders messages with images and videos in their content parts; see `ProcessorMixin.apply_chat_template`.

        Raises:
            ChatTemplateError: Also where the template refuses the messages, or has no place for `tools` or `documents`.
        """
        for name in ("tools", "documents"):
            if kwargs.get(name) and name not in str(kwargs.get("chat_template") or self.chat_template):
                raise ChatTemplateError(f"the chat template has no place for {name}, which would be dropped")
        try:
            return super().apply_chat_template(*args, **kwargs)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template refuses the messages: {error}") from error

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The text that stands for one image when all its rows are written out."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Any] | None = None, **kwargs: Any) -> MultiModalData:
        """Rows of images of given sizes, which do not depend on the size; serving engines ask for it."""
        count = len(image_sizes or ())
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values"]

    @property
    def control_tokens(self) -> list[str]:
        """The special tokens of the tokenizer without the image token, which only a chat template writes."""
        return control_tokens_of(self.tokenizer, (self.image_token, self.video_token))

    @property
    def protected_tokens(self) -> list[str]:
        """Control tokens and placeholders, which `control_tokens.protect` turns into text where they are typed."""
        return [*self.control_tokens, self.image_token, self.video_token]

    def encode_conversation(
        self,
        messages: Sequence[Message],
        images: Any = None,
        videos: Any = None,
        max_length: int | None = None,
        truncation: bool = False,
        with_pixels: bool = True,
        normalize: bool = True,
        control_tokens: ControlTokens = "tokens",
    ) -> dict[str, Any]:
        """Encodes a conversation in which the assistant's turns are learnt.

        Args:
            messages: Turns with `role` and `content` (a string, or parts of type text, image and video). One of the
                assistant with `"weight": 0` is not learnt.
            images, videos: Images and videos of the placeholders, in order, unless the content parts carry them.
            max_length, truncation: As for `__call__`.
            with_pixels: False leaves the images to the caller, who adds `pixel_values` in their order.
            normalize: False gives pixels as levels from 0 to 255 in uint8, for the device to normalise.
            control_tokens: The meaning of a control token in a text, such as `</s>`: the token, its letters ("text"),
                or an error ("refuse").

        Returns:
            Lists `input_ids`, `attention_mask`, `mm_token_type_ids`, `labels` (the assistant's tokens with the end of
            each turn, -100 elsewhere), and a tensor `pixel_values` [n, 3, H, W] if there are images or videos.

        Raises:
            ValueError: As `__call__`; no token is left to learn; the chat template refuses the messages or does not
                render them as continuations of their beginnings.
        """
        check_messages(messages)
        messages = self._with_control_tokens(messages, control_tokens)
        text, spans = assistant_spans(messages, self._render, self._special_tokens())
        spans = supervised_spans(messages, spans)
        if not with_pixels:
            sequence = self._tokenize_images(text)
            sequence.truncate(max_length, truncation, "the conversation")
            return encoded_sample(sequence, tokens_inside(sequence.offsets, spans), [])
        images = media_of_conversation(messages, images, "image")
        videos = media_of_conversation(messages, videos, "video")
        settings = {} if normalize else {"do_rescale": False, "do_normalize": False}
        (sequence,), pixels = self._tokenize([text], images, videos, image_settings=settings)
        if not normalize:
            pixels = [each.astype(np.uint8) for each in pixels]
        sequence.truncate(max_length, truncation, "the conversation")
        return encoded_sample(sequence, tokens_inside(sequence.offsets, spans), pixels)

    def encode_pair(self, caption: str, image: Any = None, control_tokens: ControlTokens = "tokens") -> dict[str, Any]:
        """Encodes an image and its caption for pretraining (section 3.4, stage 1).

        The rows of the image come first, so the first caption token is predicted from the last visual row; there is
        no beginning-of-sequence token. Caption and end-of-sequence token are learnt.

        Args:
            caption: Without placeholders.
            image: Whatever `load_image` reads; without it the caller adds `pixel_values` [1, 3, H, W].
            control_tokens: As for `encode_conversation`.

        Returns:
            As `encode_conversation`.

        Raises:
            ValueError: The caption is empty or holds a placeholder, or a control token where it may not; the image
                cannot be read.
        """
        (message,) = self._with_control_tokens([{"role": "assistant", "content": caption}], control_tokens)
        rows, sequence = self.num_image_tokens, TokenSequence()
        sequence.append([self.image_token_id] * rows, IMAGE, [(0, 0)] * rows)
        self._append_supervised(sequence, message["content"], add_beginning=False)
        pixels = [] if image is None else self.image_processor([load_image(image)])["pixel_values"]
        return encoded_sample(sequence, [False] * rows + [True] * (len(sequence) - rows), pixels)

    def encode_prompt(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Encodes a text with image placeholders, of which nothing is learnt; the caller adds the `pixel_values`.

        Args:
            add_special_tokens: As for `__call__`.

        Returns:
            Lists `input_ids`, `attention_mask`, `mm_token_type_ids`.
        """
        sequence = self._tokenize_images(text, add_special_tokens)
        return {
            "input_ids": sequence.input_ids,
            "attention_mask": [1] * len(sequence),
            "mm_token_type_ids": sequence.mm_token_type_ids,
        }

    def encode_text(self, text: str) -> dict[str, Any]:
        """Encodes plain text, closed by the end-of-sequence token; all but the beginning-of-sequence token is learnt.

        Returns:
            As `encode_conversation`.

        Raises:
            ValueError: The text is empty or holds a placeholder.
        """
        sequence = TokenSequence()
        self._append_supervised(sequence, text, add_beginning=True)
        is_opened = sequence.input_ids[0] == self._beginning
        return encoded_sample(sequence, [not is_opened] + [True] * (len(sequence) - 1), [])

    def pad(self, samples: Sequence[dict[str, Any]], padding_side: str = "right") -> dict[str, torch.Tensor]:
        """Collates results of the `encode_` methods; see `pad_encoded`."""
        return pad_encoded(samples, self.tokenizer.pad_token_id, padding_side)

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Saved settings; where there are none, those that the model's own files imply (the official layout)."""
        settings, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "image_processor" not in settings:
            settings = {**settings_from_model(pretrained_model_name_or_path, **kwargs), **settings}
        return settings, unused

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        # Not through AutoImageProcessor: in transformers 5.17 it cannot be used without torchvision.
        settings = (processor_dict or {}).get("image_processor", {})
        overrides = {name: kwargs.pop(name) for name in ("size", "aspect") if name in kwargs}
        tokenizer = load_tokenizer(pretrained_model_name_or_path, **kwargs)
        return [Owl2ImageProcessorPil(**{**settings, **overrides}), tokenizer]

    def _with_control_tokens(self, messages: Sequence[Message], control_tokens: ControlTokens) -> Sequence[Message]:
        """The messages with the control tokens in their texts as asked for."""
        if control_tokens == "refuse" and (found := control_tokens_in(messages, self.control_tokens)):
            raise ValueError(f"turn {found[0][0]} holds the control token {found[0][1]!r} in its text")
        return protect(messages, self.control_tokens) if control_tokens == "text" else messages

    def _rows(self, sequences: Sequence[TokenSequence], settings: CallSettings) -> dict[str, list[list[Any]]]:
        """The requested entries of each text, before padding."""
        rows: dict[str, list[list[Any]]] = {"input_ids": [sequence.input_ids for sequence in sequences]}
        if settings.return_attention_mask is not False:
            rows["attention_mask"] = [[1] * len(sequence) for sequence in sequences]
        if settings.return_mm_token_type_ids:
            rows["mm_token_type_ids"] = [sequence.mm_token_type_ids for sequence in sequences]
        if settings.return_offsets_mapping:
            rows["offset_mapping"] = [sequence.offsets for sequence in sequences]
        if settings.return_special_tokens_mask:
            special = set(self.tokenizer.all_special_ids)
            rows["special_tokens_mask"] = [[int(token in special) for token in each.input_ids] for each in sequences]
        return rows

    def _placeholders(self) -> PlaceholderTokenizer:
        modalities = {self.image_token: IMAGE, self.video_token: VIDEO}
        return PlaceholderTokenizer(self.tokenizer, modalities, self.image_token_id, self._beginning)

    def _tokenize(
        self,
        texts: Sequence[str],
        images: Any,
        videos: Any,
        num_frames: int | None = None,
        add_beginning: bool = True,
        image_settings: dict[str, Any] | None = None,
    ) -> tuple[list[TokenSequence], list[np.ndarray]]:
        """Tokens of each text, and the pixels [3, H, W] of all their images and frames in order."""
        placeholders = self._placeholders()
        num_frames = self.num_frames if num_frames is None else num_frames
        found = [placeholders.find(text) for text in texts]
        own_images = share_images(images, [kinds.count(IMAGE) for kinds in found], self.image_token)
        own_videos = share_videos(videos, [kinds.count(VIDEO) for kinds in found], self.video_token)
        sequences: list[TokenSequence] = []
        pixels: list[np.ndarray] = []
        for text, kinds, text_images, text_videos in zip(texts, found, own_images, own_videos, strict=True):
            next_image, next_video, rows = iter(text_images), iter(text_videos), []
            for kind in kinds:
                if kind == IMAGE:
                    frames = [load_image(next(next_image))]
                else:
                    frames = load_video(next(next_video), num_frames)
                pixels.extend(self.image_processor(frames, **(image_settings or {}))["pixel_values"])
                rows.append(len(frames) * self.num_image_tokens)
            sequences.append(placeholders.encode(text, rows, add_beginning))
        return sequences, pixels

    def _tokenize_images(self, text: str, add_beginning: bool = True) -> TokenSequence:
        """The tokens of a text all of whose placeholders are images, each with its rows."""
        placeholders = self._placeholders()
        kinds = placeholders.find(text)
        if VIDEO in kinds:
            raise ValueError("the rows of a video depend on its frames: give the video")
        return placeholders.encode(text, [self.num_image_tokens] * len(kinds), add_beginning)

    def _append_supervised(self, sequence: TokenSequence, text: str, add_beginning: bool) -> None:
        """Adds a text without placeholders, and the end-of-sequence token."""
        placeholders = self._placeholders()
        if placeholders.find(text):
            raise ValueError(f"only text may stand here, but {text!r:.200} holds an image or video placeholder")
        tokens = placeholders.encode(text, [], add_beginning)
        if not tokens:
            raise ValueError("the text is empty: there is nothing to learn")
        sequence.append(
            [*tokens.input_ids, self.tokenizer.eos_token_id], TEXT, [*tokens.offsets, (len(text), len(text))]
        )

    def _special_tokens(self) -> list[str]:
        return [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        copies = [dict(message) for message in messages]  # transformers 5.17 writes into the messages
        return self.apply_chat_template(copies, tokenize=False, add_generation_prompt=add_generation_prompt)

    def _complete_chat_template(self, template: str) -> str:
        """The template itself if it renders images, otherwise the template extended to them."""
        parts = [{"type": "image"}, {"type": "text", "text": "?"}]
        try:
            rendered = self.apply_chat_template([{"role": "user", "content": parts}], chat_template=template)
        except (ValueError, TypeError):  # it does something to contents that only strings can
            rendered = ""
        if self.image_token in rendered:
            return template
        return extend_to_media(template, self.image_token, self.video_token)


def _stacked(pixels: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({each.shape[1:] for each in pixels})
    if len(shapes) > 1:
        raise ValueError(f"images of {shapes} pixels cannot be one tensor: leave do_resize on")
    return np.stack(pixels)


def _check_texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(item, str) for item in texts):
        raise ValueError(f"text must be a string or a list of strings, got {text!r:.200}")
    for item in texts:
        try:
            item.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair, as of bytes on a command line that are not UTF-8
            raise ValueError(f"the text {item!r:.200} is not valid Unicode: {error}") from error
    return list(texts)
