"""Modality-adaptive module: norms and projections that are separate for vision and text (paper, section 3.3, eq. 3-7).

Shapes: B batch, S sequence, D hidden, R = B * S rows, V vision rows of the whole batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from .modality_kernels import grouped_linear, permuted_rows, rms_norm


class ModalityRouting(NamedTuple):
    """The places of the vision rows, computed once a forward pass and shared by every layer.

    `num_vision` is a host integer, so that no layer waits for the device.
    """

    indicator: torch.Tensor  # [R] the modality indicator M: 1 at visual tokens, 0 at text
    permutation: torch.Tensor  # [R] rows in the order vision, text
    inverse: torch.Tensor  # [R]
    num_vision: int  # V


def build_routing(is_vision: torch.Tensor, num_vision: int) -> ModalityRouting:
    """Routing of a batch.

    Args:
        is_vision: [B, S] bool, true at visual tokens.
        num_vision: Number of true entries, known to the caller from the number of images.
    """
    flat = is_vision.flatten()
    permutation = torch.argsort(~flat, stable=True)  # [R]
    rows = torch.arange(flat.numel(), device=flat.device)
    inverse = torch.empty_like(permutation).scatter_(0, permutation, rows)
    return ModalityRouting(flat.long(), permutation, inverse, num_vision)


def separate(hidden_states: torch.Tensor, routing: ModalityRouting) -> tuple[torch.Tensor, torch.Tensor]:
    """phi(X, M, vision) [V, D] and phi(X, M, text) [R - V, D] of X [B, S, D] (eq. 3), without their zero rows.

    A product of each on its own rows then replaces two products on all rows, which masks would need.
    """
    rows = permuted_rows(hidden_states.flatten(0, 1), routing.permutation, routing.inverse)
    # One split, not two slices: the gradient of a slice is as large as what it was cut from.
    vision_rows, text_rows = rows.split([routing.num_vision, rows.shape[0] - routing.num_vision])
    return vision_rows, text_rows


class ModalityAdaptiveRMSNorm(nn.Module):
    """LN_V(phi(H, M, vision)) + LN_T(phi(H, M, text)) (eq. 4), with LLaMA's norm. Statistics are in float32."""

    def __init__(self, hidden_size: int, eps: float, separate: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.vision_weight = nn.Parameter(torch.ones(hidden_size)) if separate else None

    def forward(self, hidden_states: torch.Tensor, routing: ModalityRouting | None = None) -> torch.Tensor:
        if routing is None or self.vision_weight is None:
            return rms_norm(hidden_states, self.weight, None, None, self.eps)
        return rms_norm(hidden_states, self.weight, self.vision_weight, routing.indicator, self.eps)


def modality_adaptive_projections(
    hidden_states: torch.Tensor,
    projections: Sequence[tuple[nn.Module, nn.Module | None]],
    routing: ModalityRouting | None,
) -> list[torch.Tensor]:
    """H W (eq. 5) or phi(H, M, vision) W_vision + phi(H, M, text) W_text (eq. 6, 7) for each projection.

    Args:
        hidden_states: H [B, S, D].
        projections: W_text, or W where it is shared, and W_vision or `None`.
        routing: Places of the vision rows; `None` if every row is text.

    Returns:
        One tensor [B, S, D'] per projection.
    """
    if routing is None or all(vision is None for _, vision in projections):
        return [text(hidden_states) for text, _ in projections]
    vision_rows, text_rows = separate(hidden_states, routing)
    outputs = []
    for text, vision in projections:
        if vision is None:
            outputs.append(text(hidden_states))
            continue
        rows = grouped_linear(vision_rows, vision, text_rows, text)  # [R, D'], vision first
        rows = permuted_rows(rows, routing.inverse, routing.permutation)
        outputs.append(rows.view(*hidden_states.shape[:-1], -1))
    return outputs


def modality_adaptive_mlp(
    hidden_states: torch.Tensor, text: nn.Module, vision: nn.Module | None, routing: ModalityRouting | None
) -> torch.Tensor:
    """FFN(H) (eq. 8, shared in the paper), or a feed-forward network for each modality; [B, S, D]."""
    if routing is None or vision is None:
        return text(hidden_states)
    vision_rows, text_rows = separate(hidden_states, routing)
    rows = torch.cat([vision(vision_rows), text(text_rows)])
    return permuted_rows(rows, routing.inverse, routing.permutation).view(hidden_states.shape)


class ZeroLinear(nn.Linear):
    """A linear layer whose weights begin as zero."""


class LowRankAdapter(nn.Module):
    """x A B with a rank below the widths; B begins as zero. It is the control without copies (`kv_adapter_rank`)."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = ZeroLinear(rank, out_features, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(hidden_states))
