"""What `generate()` needs because the ids of image placeholders lie outside of the vocabulary.

Shapes: B batch (times beams), S sequence, V vocabulary.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import LogitsProcessorList


class PlaceholderTolerantProcessors(LogitsProcessorList):
    """Logits processors for prompts with images.

    Repetition penalties look up the score of every id in the prompt, and n-gram rules forbid ids of the prompt. One
    more column, for a token that is never drawn, takes the placeholders.
    """

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.FloatTensor:
        vocab_size = scores.shape[-1]  # scores [B, V], input_ids [B, S]
        padded = F.pad(scores, (0, 1), value=float("-inf"))
        return super().__call__(input_ids.clamp(max=vocab_size), padded, **kwargs)[:, :vocab_size]
