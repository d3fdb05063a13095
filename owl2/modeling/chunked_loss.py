"""Cross-entropy of a language modelling head without the logits of all positions in memory at once.

Shapes: N supervised positions, D hidden, V vocabulary.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**25
"""The number of logits computed at a time: 1,024 positions of a vocabulary of 32,768, 128 MiB in float32."""


def summed_next_token_loss(
    head: nn.Module, hidden_states: torch.Tensor, targets: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Summed cross-entropy in float32, one chunk of positions after another.

    The logits of a chunk are thrown away and computed again in the backward pass, so that memory does not grow with the
    number of positions times the vocabulary. Where one chunk holds all positions, its logits are kept.

    Args:
        head: Hidden states [n, D] to logits [n, V]; called as a module, so that its hooks run.
        hidden_states: [N, D]; N may be 0, which gives 0 with gradients of 0.
        targets: [N], none of them ignored.
        vocab_size: V.
    """
    rows = max(1, CHUNK_LOGITS // vocab_size)
    if len(targets) <= rows:
        return _summed_loss(head, hidden_states, targets)
    total = hidden_states.new_zeros((), dtype=torch.float32)
    for states, wanted in zip(hidden_states.split(rows), targets.split(rows), strict=True):
        total = total + checkpoint(_summed_loss, head, states, wanted, use_reentrant=False)
    return total


def _summed_loss(head: nn.Module, hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(head(hidden_states).float(), targets, reduction="sum")
