"""The norm and clipping of gradients that are sharded over several ranks (supplement, Table 9: clip at 1.0)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed.tensor import DTensor


@torch.no_grad()
def clip_gradients(parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scales the gradients of the parameters so that their norm is at most `max_norm`.

    Returns:
        The norm before, as `gradient_norm` computes it.
    """
    norm = gradient_norm(parameters)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
    return norm


@torch.no_grad()
def gradient_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """The norm of the gradient of all parameters together, the same number on every rank; a float32 scalar.

    torch's own refuses parameters of several meshes, as tensor parallel makes them. Every rank must call this, with the
    same parameters.
    """
    local: dict[tuple[Any, ...], list[torch.Tensor]] = {}
    for parameter in parameters:
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            local.setdefault(_groups_that_shard(gradient), []).append(gradient.to_local())
        elif gradient is not None:
            local.setdefault((), []).append(gradient)
    squares = []
    for groups, gradients in local.items():
        square = torch.nn.utils.get_total_norm(gradients).float().square()
        for group in groups:
            dist.all_reduce(square, group=group)
        squares.append(square)
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _groups_that_shard(tensor: DTensor) -> tuple[Any, ...]:
    """The process groups over which the tensor is split."""
    assert not any(placement.is_partial() for placement in tensor.placements), "a gradient is not summed yet"
    return tuple(
        tensor.device_mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if not placement.is_replicate()  # with both kinds of sharding there is a strided one, which is no `Shard`
    )
