"""Attention over the paged cache on a CPU, in which each request looks at its own keys alone.

transformers takes the requests of a step as one row under a mask, so that every query meets the keys of all of them.
Shapes: S tokens of a step, T keys of all its requests one after the other, H heads, Hkv key and value heads, E width of
a head.
"""

from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from owl2.modeling import Owl2Config
from owl2.modeling.compatibility import CACHE

NAME = "owl2_paged"


def is_better(config: Owl2Config, device: torch.device) -> bool:
    """Whether this attention may replace that of transformers, and is faster.

    Up to transformers 5.23 attention itself updates the cache, which this one does not; a GPU has kernels for it.
    """
    return CACHE == "cache" and device.type == "cpu" and config.text_config.sliding_window is None


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each request over its own keys: the output [1, S, H, E].

    Args:
        query: [1, H, S, E].
        key, value: [1, Hkv, T, E]; for each request those of the cache, and then the new ones.
        attention_mask: Not needed.
        cu_seq_lens_q, cu_seq_lens_k: [R + 1] beginnings of the requests among the queries and keys, and the ends.
    """
    places = zip(pairwise(cu_seq_lens_q.tolist()), pairwise(cu_seq_lens_k.tolist()), strict=True)
    outputs = [
        _causal(query[:, :, first:last], key[:, :, begin:end], value[:, :, begin:end], scaling)
        for (first, last), (begin, end) in places
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of one request, whose queries stand at the end of its keys; [1, H, S, E]."""
    heads, length, width = query.shape[1:]
    groups, keys = heads // key.shape[1], key.shape[2]
    if length == 1:
        # The heads of a group share their keys: they are queries of one head.
        packed = query.reshape(1, key.shape[1], groups, width)
        return F.scaled_dot_product_attention(packed, key, value, scale=scaling).reshape(1, heads, 1, width)
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if length == keys:
        return F.scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=True)
    seen = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)


AttentionInterface.register(NAME, paged_attention)
