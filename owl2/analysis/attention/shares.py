"""How attention is divided between text and picture; tokens that draw it whatever they hold are shown apart.

Of 90 tokens of a prompt 65 may be visual, so a share alone is arithmetic: the enrichment divides it by the share of
the tokens. The first token and visual sinks get attention that no content explains (arXiv 2510.08510).

Shapes: L layers, B batch, T tokens.
"""

import math
from typing import NamedTuple

import torch

from .recording import DecoderAttention

SINK_FACTOR = 10.0
"""A visual token that gets this many times the mean of the visual tokens is called a sink."""


class Shares(NamedTuple):
    """Attention of the chosen positions, mean over them and over the batch; each [L].

    Attributes:
        vision, text: Shares of the attention; text without the first token.
        begin: Share of the first token of the sequence.
        sinks: Share of visual sinks, which `vision` includes.
        vision_enrichment, text_enrichment: Shares among what is left without first token and sinks, divided by the
            shares of the tokens; 1 is attention in proportion to the number of tokens.
    """

    vision: torch.Tensor
    text: torch.Tensor
    begin: torch.Tensor
    sinks: torch.Tensor
    vision_enrichment: torch.Tensor
    text_enrichment: torch.Tensor

    def to_dict(self) -> dict[str, list[float | None]]:
        """The shares for JSON, which has no NaN: `None` where there is no enrichment."""
        return {
            name: [None if math.isnan(value) else round(value, 6) for value in values.tolist()]
            for name, values in self._asdict().items()
        }


def modality_shares(
    attention: DecoderAttention, is_vision: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> Shares:
    """Divides attention between the modalities.

    Args:
        is_vision: [B, T] bool, of all keys.
        attention_mask: [B, T], 0 at padding.

    Raises:
        ValueError: The attention is to another number of tokens.
    """
    weights = attention.weights.mean(2)  # [L, B, T]
    if is_vision.shape != weights.shape[1:]:
        raise ValueError(f"attention to {tuple(weights.shape[1:])} tokens, but modalities of {tuple(is_vision.shape)}")
    is_vision = is_vision.cpu()
    real = torch.ones_like(is_vision) if attention_mask is None else attention_mask.cpu().bool()
    begin = real & (real.cumsum(1) == 1)
    vision, text = is_vision & real & ~begin, ~is_vision & real & ~begin
    sinks = _sinks(weights, vision)  # [L, B, T]
    kept_vision, kept_text = vision & ~sinks, text & ~sinks
    return Shares(
        vision=_share(weights, vision),
        text=_share(weights, text),
        begin=_share(weights, begin),
        sinks=_share(weights, sinks),
        vision_enrichment=_enrichment(weights, kept_vision, kept_text),
        text_enrichment=_enrichment(weights, kept_text, kept_vision),
    )


def _sinks(weights: torch.Tensor, vision: torch.Tensor) -> torch.Tensor:
    count = vision.sum(1).clamp(min=1)  # [B]
    mean = (weights * vision).sum(2) / count
    return (weights > SINK_FACTOR * mean[..., None]) & vision


def _share(weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return (weights * chosen).sum(2).mean(1)


def _enrichment(weights: torch.Tensor, chosen: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """[L]; NaN where one of the two kinds has no token in any sample."""
    of_attention = (weights * chosen).sum(2) / (weights * (chosen | others)).sum(2)
    of_tokens = chosen.sum(2) / (chosen | others).sum(2)
    ratio = torch.where((of_tokens > 0) & (of_tokens < 1), of_attention / of_tokens, torch.nan)  # [L, B]
    return ratio.nanmean(1)


def minus_average(row: torch.Tensor, average: torch.Tensor) -> torch.Tensor:
    """A row of attention less what the prompt's tokens pay to the same keys on average, at least 0.

    What every token attends to, sinks above all, disappears; the rest is rescaled to sum to 1 (0 where nothing stays).
    """
    left = (row - average).clamp(min=0)
    return left / left.sum(-1, keepdim=True).clamp(min=torch.finfo(left.dtype).tiny)
