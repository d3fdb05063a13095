"""Sends the weights at the first step from the rank that read them to all ranks, and gathers sharded tensors.

The model is spread over the ranks while it has no weights (on the device "meta"). Then the first rank sends one tensor
after the other, and each rank keeps its shard, or a frozen tensor as a whole. So only the first rank of the job reads
the model, one tensor at a time. It is one rank of the job and not one of each machine: files are read once, only one
machine needs them, and what is random (a new abstractor, adapters) is the same for all without any check.
"""

from typing import Any, Protocol

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration
from owl2.training.adapters.quantize import in_4_bits, waits_for_4_bits

from .mesh import Mesh


class Weights(Protocol):
    """The whole parameters by name, on the host."""

    def pop(self, name: str, /) -> torch.Tensor:
        """One of them, which is not asked for again. It may be the pages of a file."""


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a model themselves, not copies."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def empty_model(config: Owl2Config) -> Owl2ForConditionalGeneration:
    """A model whose parameters are on the device "meta", for `broadcast_weights` to fill; computed buffers are real."""
    with torch.device("meta"):
        model = Owl2ForConditionalGeneration(config)
    decoder = model.base_model.language_model
    decoder.rotary_emb = LlamaRotaryEmbedding(decoder.config)
    return model


@torch.no_grad()
def broadcast_weights(model: nn.Module, weights: Weights | None, mesh: Mesh, frozen_only: bool = False) -> None:
    """Fills a model that was spread while it was empty, in place. Every rank calls this.

    Parameters get the dtype that they have in the empty model. Tied ones stay tied.

    Args:
        model: The model after `parallelize`, before its first forward pass.
        weights: The weights on the first rank, emptied on the way so that memory is freed; `None` on the others.
        frozen_only: Leave trained parameters at 0, since a checkpoint will be read into them; no weights are needed if
            everything trains.
    """
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for name, place in model.named_parameters():
        if frozen_only and place.requires_grad:
            own = torch.zeros_like(place, device=mesh.device)
        else:
            own = _own_part(_receive(name, place, weights, mesh), place)
        filled[place] = own if isinstance(own, nn.Parameter) else nn.Parameter(own, place.requires_grad)
    for module in model.modules():
        for name, place in list(module.named_parameters(recurse=False)):
            setattr(module, name, filled[place])


def _receive(name: str, place: nn.Parameter, weights: Weights | None, mesh: Mesh) -> torch.Tensor:
    """Receives the whole tensor, on the device of this rank."""
    whole = torch.empty(place.shape, dtype=place.dtype, device=mesh.device)
    if mesh.rank == 0:
        assert weights is not None, "the first rank has the weights"
        whole.copy_(weights.pop(name))
    if mesh.size > 1:
        dist.broadcast(whole, 0)
    return whole


def _own_part(whole: torch.Tensor, place: nn.Parameter) -> torch.Tensor:
    """The part of a tensor that this rank keeps."""
    if isinstance(place, DTensor):
        own: Any = torch.empty_like(place, device=whole.device)
        own.to_local().copy_(_shard(whole, place))
        return own
    return in_4_bits(place, whole) if waits_for_4_bits(place) else whole


def _shard(whole: torch.Tensor, place: DTensor) -> torch.Tensor:
    """This rank's shard, cut as the model was: first over the tensor ranks, then over the data ranks."""
    device_mesh = place.device_mesh
    names = device_mesh.mesh_dim_names or ()
    for dimension in sorted(range(device_mesh.ndim), key=lambda dimension: names[dimension] != "tensor"):
        placement: Any = place.placements[dimension]  # with both kinds of sharding there is one that is no `Shard`
        if not placement.is_replicate():
            pieces = whole.chunk(device_mesh.size(dimension), placement.dim)
            own = device_mesh.get_local_rank(dimension)
            whole = pieces[own] if own < len(pieces) else whole.narrow(placement.dim, 0, 0)
    return whole


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor of a shard; every rank that holds a shard calls this.

    `DTensor.full_tensor` warns where a tensor is split over data and tensor ranks. Undone one by one, in the order
    opposite to `_shard`, the splits are what sharding gathers for every layer anyway.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    placements = list(tensor.placements)
    for dimension, placement in enumerate(tensor.placements):
        if not placement.is_replicate():
            placements[dimension] = Replicate()
            tensor = tensor.redistribute(placements=placements)
    return tensor.to_local()
