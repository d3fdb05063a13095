"""Eager attention in the transformers interface, for the parts that want attention probabilities.

Shapes: B batch, H heads, Hkv key and value heads, S queries, T keys.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,  # [B, H, S, head_dim]
    key: torch.Tensor,  # [B, Hkv, T, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # [B, 1, S, T], added to the scores
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its probabilities; softmax in float32.

    Returns:
        Output [B, S, H, head_dim] and probabilities [B, H, S, T].
    """
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities
