"""Kernels of the modality-adaptive module: exact gradients, and no more copies than needed.

Shapes: B batch, S sequence, D hidden, R rows. `modality_adaptive` says what they compute.
"""

from typing import Any, TypeGuard

import torch
from torch import nn


class _Permute(torch.autograd.Function):
    """Permutes rows [R, D]. The gradient is the inverse gather; that of `index_select` adds into zeros."""

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


def permuted_rows(rows: torch.Tensor, permutation: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Rows [R, D] in the order of `permutation` [R]; the gradient uses its inverse."""
    if torch.is_grad_enabled():
        return _Permute.apply(rows, permutation, inverse)
    return rows.index_select(0, permutation)


class _RMSNorm(torch.autograd.Function):
    """Eq. 4 with its gradient in closed form: it keeps the input and one number a row, not every float32 step."""

    @staticmethod
    def forward(
        hidden_states: torch.Tensor,  # [B, S, D]
        weight: torch.Tensor,  # [D]
        vision_weight: torch.Tensor | None,
        indicator: torch.Tensor | None,  # [B * S]
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = hidden_states.float()
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + eps)  # [B, S, 1]
        normalized = (states * scale).to(hidden_states.dtype)
        return _row_weights(weight, vision_weight, indicator, normalized) * normalized, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        hidden_states, weight, vision_weight, indicator, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(hidden_states, weight, vision_weight, indicator, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_states, weight, vision_weight, indicator, scale = ctx.saved_tensors
        normalized = hidden_states.float() * scale
        for_states = for_text = for_vision = None
        if ctx.needs_input_grad[0]:
            inner = (gradient * _row_weights(weight, vision_weight, indicator, gradient)).float()
            inner = inner - normalized * (inner * normalized).mean(-1, keepdim=True)
            for_states = (inner * scale).to(hidden_states.dtype)
        if any(ctx.needs_input_grad[1:3]):
            rows = (gradient * normalized.to(gradient.dtype)).float().flatten(0, -2)  # [B * S, D]
            vision = rows.new_zeros(rows.shape[0]) if indicator is None else indicator.to(rows.dtype)
            sums = torch.stack([1 - vision, vision]) @ rows  # [2, D]
            for_text = sums[0].to(weight.dtype)
            for_vision = None if vision_weight is None else sums[1].to(vision_weight.dtype)
        return for_states, for_text, for_vision, None, None


def rms_norm(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    vision_weight: torch.Tensor | None,
    indicator: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Root mean square norm of [B, S, D] in float32, with the weight [D] of the modality of each row.

    Args:
        indicator: [B * S], 1 at rows that take `vision_weight`; both are `None` where all rows take `weight`.
    """
    normalize = _RMSNorm.apply if torch.is_grad_enabled() else _RMSNorm.forward
    return normalize(hidden_states, weight, vision_weight, indicator, eps)[0]


def _row_weights(
    weight: torch.Tensor, vision_weight: torch.Tensor | None, indicator: torch.Tensor | None, rows: torch.Tensor
) -> torch.Tensor:
    """The weight of each row of [B, S, D]: in that shape, or [D] where it is the same for all."""
    if vision_weight is None or indicator is None:
        return weight
    return torch.stack([weight, vision_weight]).index_select(0, indicator).view(rows.shape)


def grouped_linear(
    vision_rows: torch.Tensor, vision: nn.Module, text_rows: torch.Tensor, text: nn.Module
) -> torch.Tensor:
    """Projects the rows [R, D] of each modality by its own projection, those of vision first: [R, D'].

    Without gradients, both products of plain matrices are written in place, which saves a copy.
    """
    if not (_writes_in_place(vision, vision_rows) and _writes_in_place(text, text_rows)):
        return torch.cat([vision(vision_rows), text(text_rows)])
    output = text_rows.new_empty(len(vision_rows) + len(text_rows), text.weight.shape[0])
    parts = output.split([len(vision_rows), len(text_rows)])
    for rows, module, part in ((vision_rows, vision, parts[0]), (text_rows, text, parts[1])):
        if module.bias is None:
            torch.mm(rows, module.weight.t(), out=part)
        else:
            torch.addmm(module.bias, rows, module.weight.t(), out=part)
    return output


def _writes_in_place(module: nn.Module, rows: torch.Tensor) -> TypeGuard[nn.Linear]:
    """Whether a projection is only its matrix: no adapter, hook, quantised or distributed weight, autocast."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.dtype == rows.dtype
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not torch.is_autocast_enabled(rows.device.type)
    )
