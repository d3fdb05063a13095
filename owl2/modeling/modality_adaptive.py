"""Modality-adaptive module: norms and projections that are separate for vision and text (paper, section 3.3).

Shapes: B batch, S sequence, D hidden, V vision rows of the whole batch.
"""

from typing import Any, NamedTuple

import torch
from torch import nn


class ModalityRouting(NamedTuple):
    """Where the vision rows are. Built once a forward pass and shared by every layer.

    The separated operation phi of eq. 3 is a permutation that puts the vision rows first: two dense products on two
    slices instead of two masked ones on everything. `num_vision` is a host integer, so no layer waits for the device.
    """

    is_vision: torch.Tensor  # [B, S, 1] bool: the modality indicator M
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
    return ModalityRouting(is_vision.unsqueeze(-1), permutation, inverse, num_vision)


class _Permute(torch.autograd.Function):
    """Rows [R, D] in another order. The gradient is the inverse gather; that of `index_select` adds into zeros."""

    @staticmethod
    def forward(rows: torch.Tensor, permutation: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        return rows.index_select(0, permutation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        permutation, inverse = ctx.saved_tensors
        return _Permute.apply(gradient, inverse, permutation), None, None


class _RMSNorm(torch.autograd.Function):
    """Eq. 4 with its gradient in closed form: it keeps the input and one number a row, not every float32 step."""

    @staticmethod
    def forward(
        hidden_states: torch.Tensor,  # [B, S, D]
        weight: torch.Tensor,  # [D]
        vision_weight: torch.Tensor | None,
        is_vision: torch.Tensor | None,  # [B, S, 1]
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = hidden_states.float()
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + eps)  # [B, S, 1]
        return _select(weight, vision_weight, is_vision) * (states * scale).to(hidden_states.dtype), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        hidden_states, weight, vision_weight, is_vision, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(hidden_states, weight, vision_weight, is_vision, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_states, weight, vision_weight, is_vision, scale = ctx.saved_tensors
        normalized = hidden_states.float() * scale
        for_states = for_text = for_vision = None
        if ctx.needs_input_grad[0]:
            inner = (gradient * _select(weight, vision_weight, is_vision)).float()
            inner = inner - normalized * (inner * normalized).mean(-1, keepdim=True)
            for_states = (inner * scale).to(hidden_states.dtype)
        if any(ctx.needs_input_grad[1:3]):
            rows = (gradient * normalized.to(gradient.dtype)).float().flatten(0, -2)  # [B * S, D]
            vision = rows.new_zeros(rows.shape[0]) if is_vision is None else is_vision.flatten().to(rows.dtype)
            sums = torch.stack([1 - vision, vision]) @ rows  # [2, D]
            for_text = sums[0].to(weight.dtype)
            for_vision = None if vision_weight is None else sums[1].to(vision_weight.dtype)
        return for_states, for_text, for_vision, None, None


def _select(weight: torch.Tensor, vision_weight: torch.Tensor | None, is_vision: torch.Tensor | None) -> torch.Tensor:
    """The weight of each row: [B, S, D], or [D] where it is the same for all."""
    if vision_weight is None or is_vision is None:
        return weight
    return torch.where(is_vision, vision_weight, weight)


class ModalityAdaptiveRMSNorm(nn.Module):
    """Root mean square norm with a weight per modality (eq. 4). Statistics are in float32."""

    def __init__(self, hidden_size: int, eps: float, separate: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.vision_weight = nn.Parameter(torch.ones(hidden_size)) if separate else None

    def forward(self, hidden_states: torch.Tensor, routing: ModalityRouting | None = None) -> torch.Tensor:
        is_vision = None if routing is None or self.vision_weight is None else routing.is_vision
        vision_weight = None if is_vision is None else self.vision_weight
        normalize = _RMSNorm.apply if torch.is_grad_enabled() else _RMSNorm.forward
        return normalize(hidden_states, self.weight, vision_weight, is_vision, self.eps)[0]


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
    rows = _Permute.apply(hidden_states.flatten(0, 1), routing.permutation, routing.inverse)  # [B * S, D], vision first
    vision_rows, text_rows = rows[: routing.num_vision], rows[routing.num_vision :]
    outputs = []
    for shared, vision in projections:
        if vision is None:
            outputs.append(shared(hidden_states))
            continue
        separate = torch.cat([vision(vision_rows), shared(text_rows)])  # [B * S, D'], vision first
        separate = _Permute.apply(separate, routing.inverse, routing.permutation)
        outputs.append(separate.view(*hidden_states.shape[:-1], -1))
    return outputs
