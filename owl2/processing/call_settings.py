"""The settings of a call of the processor, flat or grouped as in transformers' processors."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .image_processor import Owl2ImagesKwargs

_GROUPS = ("common_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs")
_OF_NO_EFFECT = (
    "do_sample_frames",
    "verbose",
    "return_token_type_ids",
    "audio_kwargs",
    "return_text_replacement_offsets",
)
"""Settings without effect: longer videos are always sampled, there are no token types beside the modalities, and
offsets are those of the text before its placeholders are widened."""


@dataclass
class CallSettings:
    """Settings of a call.

    Attributes:
        padding: True or "longest", "max_length", or False.
        padding_side: "left" or "right"; the tokenizer's by default.
        pad_to_multiple_of: Round the padded length up to a multiple of this.
        truncation: Cut text (never an image) from the end to `max_length` tokens, instead of an error.
        max_length: Most tokens of a text, visual rows included.
        num_frames: Frames taken from a longer video; the processor's by default.
        add_special_tokens: Open texts with the beginning-of-sequence token, if the tokenizer does so.
        return_mm_token_type_ids, return_attention_mask: Leave them out if False.
        return_offsets_mapping: Also `offset_mapping`, (first, last + 1) character of the text for each token; all rows
            of an image have those of its placeholder.
        return_special_tokens_mask: Also return `special_tokens_mask`, 1 for tokens that stand for no text.
        return_length: Also `length`, the number of tokens of each text with its padding.
        return_tensors: "pt" for tensors; otherwise lists, and arrays for the pixels.
        images: Settings of the image processor, such as `size`, `aspect` or `do_resize`.
    """

    padding: bool | str | None = False
    padding_side: str | None = None
    pad_to_multiple_of: int | None = None
    truncation: bool | str | None = False
    max_length: int | None = None
    num_frames: int | None = None
    add_special_tokens: bool = True
    return_mm_token_type_ids: bool = True
    return_attention_mask: bool | None = True
    return_offsets_mapping: bool = False
    return_special_tokens_mask: bool = False
    return_length: bool = False
    return_tensors: str | None = None
    images: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "CallSettings":
        """The settings from keyword arguments, some of which may be grouped (`text_kwargs={...}`).

        Raises:
            TypeError: One is unknown.
            ValueError: One is given twice with different values.
        """
        flat = {name: value for name, value in given.items() if name not in _GROUPS}
        for group in _GROUPS:
            for name, value in (given.get(group) or {}).items():
                if name in flat and flat[name] != value:
                    raise ValueError(f"{name} is {flat[name]!r}, and {value!r} in {group}: give it once")
                flat[name] = value
        own = {each.name for each in fields(cls)} - {"images"}
        images = set(Owl2ImagesKwargs.__annotations__)
        unknown = sorted(set(flat) - own - images - set(_OF_NO_EFFECT))
        if unknown:
            raise TypeError(
                f"Owl2Processor does not take {', '.join(unknown)}; it takes {', '.join(sorted(own))}, settings of "
                "images such as size, aspect and do_resize, and groups of them (text_kwargs, images_kwargs, ...)"
            )
        settings = cls(**{name: value for name, value in flat.items() if name in own})
        settings.images = {name: value for name, value in flat.items() if name in images - own}
        return settings

    @property
    def truncates(self) -> bool:
        """Whether text is cut.

        Raises:
            ValueError: There is no length to cut to.
        """
        truncates = self.truncation not in (False, None, "do_not_truncate")
        if self.max_length is None and truncates or self.max_length is not None and self.max_length < 1:
            limit = f"max_length={self.max_length}: give a max_length of 1 or more"
            raise ValueError(f"truncation={self.truncation!r} with {limit}")
        return truncates
