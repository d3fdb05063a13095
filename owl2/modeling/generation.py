"""`generate()` over prompts with images.

The ids of image placeholders lie outside of the vocabulary, images belong to samples, and a prompt may begin in a cache
kept from the turns before. Shapes: B batch (times beams), S sequence, V vocabulary, N images.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
from transformers.cache_utils import Cache
from transformers.generation import CandidateGenerator, GenerationMixin, PromptLookupCandidateGenerator

from .compatibility import CACHE, named_cache
from .configuration import Owl2Config
from .hashed_routing import sample_keys

LOOK_UP_THE_PROMPT = (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
"""Processors that look up the score of every id in the prompt, or forbid ids of the prompt."""


class Owl2GenerationMixin(GenerationMixin):
    """The methods that `Owl2ForConditionalGeneration` adds to the generation of transformers."""

    config: Owl2Config

    def generate(
        self, *args: Any, past_key_values: Cache | None = None, cache: Cache | None = None, **kwargs: Any
    ) -> Any:
        """Generates as in transformers; a cache kept from earlier turns may have either name in every version."""
        if self.config.text_config.routing != "modality" and "routing_key" not in kwargs:
            kwargs["routing_key"] = self._key_of_prompt(*args, **kwargs)
        return super().generate(*args, **named_cache(past_key_values, cache), **kwargs)

    def _key_of_prompt(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The key of the prompt's sample [B, 1], by which generated tokens are routed."""
        ids = kwargs.get("input_ids", inputs)
        if ids is None:
            raise ValueError("a model that routes by a hash generates from input_ids")
        return sample_keys(ids, kwargs.get("attention_mask"))[:, -1:]

    def prepare_inputs_for_generation(
        self, input_ids: torch.LongTensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepares inputs; an assistant model, whose first step transformers does not mark, gets the images too."""
        if kwargs.get("mm_token_type_ids") is not None:
            kwargs["mm_token_type_ids"] = complete_types(kwargs["mm_token_type_ids"], input_ids)
        encoded = kwargs.pop("image_hidden_states", None)
        # By the name `inputs_embeds` transformers sees that they may be given.
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        reads_an_image = self._reads_an_image(inputs)
        if kwargs.get("pixel_values") is not None and reads_an_image:
            inputs["pixel_values"] = kwargs["pixel_values"]
        if encoded is not None and (reads_an_image or inputs.get("inputs_embeds") is not None):
            inputs["image_hidden_states"] = encoded
        return inputs

    def _reads_an_image(self, inputs: dict[str, Any]) -> bool:
        """Whether a step reads placeholders of images; those of one token never do."""
        ids = inputs.get("input_ids")
        return ids is not None and ids.shape[1] > 1 and bool((ids == self.config.image_token_id).any())

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors = super()._get_logits_processor(*args, **kwargs)
        prompt = kwargs.get("encoder_input_ids")
        return placeholder_tolerant(processors) if self._has_placeholders(prompt) else processors

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> CandidateGenerator:
        generator = super()._get_candidate_generator(*args, **kwargs)
        has_images = bool((kwargs["input_ids"] == self.config.image_token_id).any())
        return without_placeholders(generator, self.config.image_token_id) if has_images else generator

    def _has_placeholders(self, prompt: torch.Tensor | None) -> bool:
        """Whether a prompt, of ids [B, S] and not of embeddings, holds ids that have no score."""
        if prompt is None or prompt.is_floating_point() or prompt.numel() == 0:
            return False
        return int(prompt.max()) >= self.config.text_config.vocab_size

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, input_ids: torch.LongTensor | None = None, **model_kwargs: Any
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeats the samples for beams and returned sequences; the images of a sample stay together.

        Their visual tokens are repeated: an image is encoded once. Where the beginning of a prompt is in the cache
        already, the images of that beginning may be given or not.
        """
        types = model_kwargs.get("mm_token_type_ids")
        pixel_values, encoded = (model_kwargs.pop(name, None) for name in ("pixel_values", "image_hidden_states"))
        if types is not None:
            types = model_kwargs["mm_token_type_ids"] = complete_types(types, input_ids)
        embeddings, cache = model_kwargs.get("inputs_embeds"), model_kwargs.get(CACHE)
        ids: torch.Tensor | None = input_ids if embeddings is None else None
        if cached_length(cache) and _is_whole(ids if embeddings is None else embeddings, model_kwargs):
            is_vision = self._vision_rows(ids, types)
            if is_vision is not None:
                crop_to_whole_images(cache, is_vision, self.config.tokens_per_image)
                pixel_values = self._uncached_images(pixel_values, is_vision, cached_length(cache))
                encoded = self._uncached_images(encoded, is_vision, cached_length(cache))
            ids = None if ids is None else ids[:, cached_length(cache) :]
            embeddings = None if embeddings is None else embeddings[:, cached_length(cache) :]
        is_vision = self.model.modality_indicator(ids, embeddings, types, pixel_values, encoded)
        if is_vision is not None and expand_size > 1:
            if pixel_values is not None:
                pixel_values, encoded = None, self.model.encode_images(pixel_values).image_hidden_states
            if encoded is not None:
                images = (is_vision.sum(1) // self.config.tokens_per_image).tolist()
                encoded = torch.cat([group.repeat(expand_size, 1, 1) for group in encoded.split(images)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, input_ids=input_ids, **model_kwargs
        )
        given = {"pixel_values": pixel_values, "image_hidden_states": encoded}
        return input_ids, model_kwargs | {name: values for name, values in given.items() if values is not None}

    def _vision_rows(self, ids: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor | None:
        """A mask of the visual rows of a whole prompt, [B, S] bool; `None` if it is not known."""
        if types is not None:
            return types != 0
        return None if ids is None else ids == self.config.image_token_id

    def _uncached_images(
        self, values: torch.Tensor | None, is_vision: torch.Tensor, cached: int
    ) -> torch.Tensor | None:
        """The images [N, ...] after the first `cached` tokens of whole prompts; another number of images is kept."""
        rows = self.config.tokens_per_image
        images = (is_vision.sum(1) // rows).tolist()
        if values is None or sum(images) != values.shape[0]:
            return values
        known = (is_vision[:, :cached].sum(1) // rows).tolist()
        left = [group[count:] for group, count in zip(values.split(images), known, strict=True)]
        return torch.cat(left) if sum(images) > sum(known) else None


class PlaceholderTolerantProcessor(LogitsProcessor):
    """A processor of `LOOK_UP_THE_PROMPT` for prompts with images.

    One more column, for a token that is never drawn, takes the placeholders.
    """

    def __init__(self, processor: LogitsProcessor) -> None:
        self.processor = processor

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        vocab_size = scores.shape[-1]  # scores [B, V], input_ids [B, S]
        padded = F.pad(scores, (0, 1), value=float("-inf"))
        return self.processor(input_ids.clamp(max=vocab_size), padded)[:, :vocab_size]


def placeholder_tolerant(processors: LogitsProcessorList) -> LogitsProcessorList:
    """Wraps the processors that look up the prompt, so that they bear placeholders; the others stay as they are."""
    return LogitsProcessorList(
        PlaceholderTolerantProcessor(processor) if isinstance(processor, LOOK_UP_THE_PROMPT) else processor
        for processor in processors
    )


def without_placeholders(generator: CandidateGenerator, image_token_id: int) -> CandidateGenerator:
    """A generator of candidates, changed in place, that proposes no placeholder.

    Only prompt lookup could propose one: it takes what followed the same words in the prompt, and now ends before an
    image. Whether a proposed token is forbidden is not asked beforehand, since a placeholder has no score; the model,
    which judges all candidates, decides.
    """
    if isinstance(generator, PromptLookupCandidateGenerator):
        placeholder = torch.tensor([image_token_id])
        ends = generator.eos_token_id
        generator.eos_token_id = placeholder if ends is None else torch.cat([ends, placeholder.to(ends.device)])
        generator.logits_processor = None
    return generator


def _is_whole(prompt: torch.Tensor | None, model_kwargs: dict[str, Any]) -> bool:
    """Whether a prompt includes the tokens in the cache, or only the new ones."""
    mask = model_kwargs.get("attention_mask")
    return mask is None or prompt is None or mask.shape[1] == prompt.shape[1]


def cached_length(cache: Cache | None) -> int:
    """Number of tokens whose keys and values a cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())


def crop_to_whole_images(cache: Cache, is_vision: torch.Tensor, tokens_per_image: int) -> None:
    """Shortens a cache that ends within an image, since images are encoded whole.

    It ends so in assisted decoding, which takes back the last token of the prompt, where that token belongs to an
    image.

    Args:
        is_vision: [B, S], true at the visual rows of the prompts whose beginning the cache holds.
    """
    while inside := int((is_vision[:, : cached_length(cache)].sum(1) % tokens_per_image).max()):
        cache.crop(-inside)


def complete_types(types: torch.Tensor, input_ids: torch.Tensor | None) -> torch.Tensor:
    """Types [B, S] of all tokens: tokens after the given ones, proposed in assisted decoding, are text.

    transformers lengthens only `token_type_ids` by the tokens that are proposed.
    """
    missing = 0 if input_ids is None else input_ids.shape[1] - types.shape[1]
    return F.pad(types, (0, missing)) if missing > 0 else types
