"""What `generate()` needs because the ids of image placeholders lie outside of the vocabulary.

Shapes: B batch (times beams), S sequence, V vocabulary.
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
from transformers.generation import CandidateGenerator, PromptLookupCandidateGenerator

LOOK_UP_THE_PROMPT = (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
"""Processors that look up the score of every id in the prompt, or forbid ids of the prompt."""


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
    """The same processors, of which those that look up the prompt bear placeholders; nothing changes for the others."""
    return LogitsProcessorList(
        PlaceholderTolerantProcessor(processor) if isinstance(processor, LOOK_UP_THE_PROMPT) else processor
        for processor in processors
    )


def without_placeholders(generator: CandidateGenerator, image_token_id: int) -> CandidateGenerator:
    """A generator of candidates, changed in place, that proposes no placeholder.

    Only prompt lookup could: it takes what followed the same words in the prompt, and now ends before an image. Whether
    a proposed token is forbidden is then not asked beforehand, as there is no score of a placeholder to ask for; the
    model, which judges all candidates, knows.
    """
    if isinstance(generator, PromptLookupCandidateGenerator):
        placeholder = torch.tensor([image_token_id])
        ends = generator.eos_token_id
        generator.eos_token_id = placeholder if ends is None else torch.cat([ends, placeholder.to(ends.device)])
        generator.logits_processor = None
    return generator


def cached_length(cache: Any) -> int:
    """Number of tokens whose keys and values a cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())


def complete_types(types: torch.Tensor | None, input_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Types [B, S] of all tokens: those behind the ones given, proposed in assisted decoding, are text.

    transformers lengthens only `token_type_ids` by the tokens that are proposed.
    """
    if types is None or input_ids is None or types.shape[1] >= input_ids.shape[1]:
        return types
    return F.pad(types, (0, input_ids.shape[1] - types.shape[1]))
