"""Modality-adaptive module: norms and projections that are separate for vision and text (paper, section 3.3).

Shapes: B batch, S sequence, D hidden, V vision rows of the whole batch.
"""

from typing import NamedTuple

import torch
from torch import nn

from .modality_kernels import _grouped_linear, _permuted, _RMSNorm


class ModalityRouting(NamedTuple):
    """Where the vision rows are. Built once a forward pass and shared by every layer.

    The separated operation phi of eq. 3 is a permutation that puts the vision rows first: two dense products on two
    slices instead of two masked ones on everything. `num_vision` is a host integer, so no layer waits for the device.
    """

    indicator: torch.Tensor  # [B * S] 1 at visual tokens, 0 at text: the modality indicator M
    permutation: torch.Tensor  # [B * S] rows in the order vision, text
    inverse: torch.Tensor  # [B * S]
    num_vision: int  # V


def build_routing(is_vision: torch.Tensor, num_vision: int) -> ModalityRouting:
    """Routing of a batch.

    Args:
        is_vision: [B, S] bool, true at visual tokens.
        num_vision: number of true entries, known to the caller from the number of images.
    """
    flat = is_vision.flatten()
    permutation = torch.argsort(~flat, stable=True)  # [B * S]
    rows = torch.arange(flat.numel(), device=flat.device)
    inverse = torch.empty_like(permutation).scatter_(0, permutation, rows)
    return ModalityRouting(flat.long(), permutation, inverse, num_vision)


class ModalityAdaptiveRMSNorm(nn.Module):
    """Root mean square norm with a weight per modality (eq. 4). Statistics are in float32."""

    def __init__(self, hidden_size: int, eps: float, separate: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.vision_weight = nn.Parameter(torch.ones(hidden_size)) if separate else None

    def forward(self, hidden_states: torch.Tensor, routing: ModalityRouting | None = None) -> torch.Tensor:
        indicator = None if routing is None or self.vision_weight is None else routing.indicator
        vision_weight = None if indicator is None else self.vision_weight
        normalize = _RMSNorm.apply if torch.is_grad_enabled() else _RMSNorm.forward
        return normalize(hidden_states, self.weight, vision_weight, indicator, self.eps)[0]


def modality_adaptive_projections(
    hidden_states: torch.Tensor,
    projections: list[tuple[nn.Module, nn.Module | None]],
    routing: ModalityRouting | None,
) -> list[torch.Tensor]:
    """Linear projections of which some are separate for vision (eq. 5-7).

    Args:
        hidden_states: [B, S, D].
        projections: (text or shared projection, vision projection or `None` where it is shared).
        routing: where the vision rows are; `None` if every row is text.

    Returns:
        One tensor [B, S, D'] per projection.
    """
    if routing is None or all(vision is None for _, vision in projections):
        return [shared(hidden_states) for shared, _ in projections]
    rows = _permuted(hidden_states.flatten(0, 1), routing.permutation, routing.inverse)  # [B * S, D], vision first
    # One split, not two slices: the gradient of a slice is as large as what it was cut from.
    vision_rows, text_rows = rows.split([routing.num_vision, rows.shape[0] - routing.num_vision])
    outputs = []
    for shared, vision in projections:
        if vision is None:
            outputs.append(shared(hidden_states))
            continue
        separate = _grouped_linear(vision_rows, vision, text_rows, shared)  # [B * S, D'], vision first
        separate = _permuted(separate, routing.inverse, routing.permutation)
        outputs.append(separate.view(*hidden_states.shape[:-1], -1))
    return outputs
