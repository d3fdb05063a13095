"""Attention: the module that vision encoder and visual abstractor share, and the eager kernel.

Shapes: B batch, H heads, Hkv key and value heads, S queries, T keys, D hidden.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration import Owl2AbstractorConfig, Owl2VisionConfig


class MultiheadAttention(nn.Module):
    """Attention without a mask: of image tokens over themselves, or of learnable queries over image tokens."""

    def __init__(self, config: Owl2VisionConfig | Owl2AbstractorConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.num_key_value_groups = 1
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        query: torch.Tensor,  # [B, S, D]
        key: torch.Tensor,  # [B, T, D]
        value: torch.Tensor,  # [B, T, D]
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output [B, S, D] and, with eager attention, probabilities [B, H, S, T]."""
        query, key, value = (
            projection(states).view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)  # [B, H, S or T, head_dim]
            for projection, states in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attention(
            self, query, key, value, None, dropout=dropout, scaling=self.scaling, is_causal=False, **kwargs
        )
        return self.out_proj(output.flatten(2)), weights


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
    """Attention with its probabilities, in the interface of transformers; softmax in float32.

    Returns:
        Output [B, S, H, head_dim] and probabilities [B, H, S, T].
    """
    groups: Any = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities
