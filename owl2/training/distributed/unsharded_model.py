"""A copy of the model in training that a rank can use alone: whole weights in the precision of the run, without the
wrappers of training (sharding, tensor parallel, activation checkpointing, compilation, dropout)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from owl2.modeling import Owl2ForConditionalGeneration

from .broadcast_weights import gather_tensor


class UnshardedModel:
    """A second model beside the one in training, in evaluation mode, without weights of its own.

    Args:
        model: The model before it is parallelized, with adapters and layers in 4 bits in place.
    """

    def __init__(self, model: Owl2ForConditionalGeneration) -> None:
        self._model = _without_weights(model).eval()

    @contextmanager
    def of(self, trained: Owl2ForConditionalGeneration, dtype: torch.dtype) -> Iterator[Owl2ForConditionalGeneration]:
        """The second model with the present weights of the first; all ranks enter the context together.

        Inside it, each rank holds whole weights of what is spread over ranks: trained weights in `dtype` and, with
        tensor parallel, all others. The rest is shared with the first model.

        Args:
            trained: The model that was given, parallelized since.
            dtype: Precision in which the run computes.
        """
        empty, known = dict(_weights(self._model)), dict(_weights(trained))
        whole: dict[nn.Parameter, nn.Parameter] = {}  # tied weights once
        for name in empty:
            if known[name] not in whole:
                whole[known[name]] = _whole(known[name], dtype)
            _put(self._model, name, whole[known[name]])
        for name, buffer in trained.named_buffers(remove_duplicate=False):
            _put(self._model, name, buffer)
        del whole
        try:
            yield self._model
        finally:
            for name, weight in empty.items():
                _put(self._model, name, weight)


def _without_weights(model: Owl2ForConditionalGeneration) -> Owl2ForConditionalGeneration:
    """A copy with weights on the device "meta"."""
    known: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        known[id(weight)] = nn.Parameter(torch.empty(weight.shape, device="meta"), requires_grad=False)
    return copy.deepcopy(model, known)


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


@torch.no_grad()
def _whole(weight: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    """The whole weight; itself if every rank has it in the right precision, as packed ones in 4 bits are."""
    if not weight.requires_grad and not isinstance(weight, DTensor):
        return weight
    tensor = weight.to(dtype) if weight.requires_grad else weight.detach()
    return nn.Parameter(gather_tensor(tensor).detach(), requires_grad=False)


def _put(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    module, _, own = name.rpartition(".")
    setattr(model.get_submodule(module), own, tensor)
