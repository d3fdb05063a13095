"""Spreads a model over the ranks of a mesh: tensor parallel, activation checkpointing, compilation, sharding.

Only what trains is sharded. Frozen parameters stay whole on every rank in the precision of the computation, so that
they are never sent: stage 1 (paper, section 3.4) exchanges the 1.5 B trained parameters and not the 8.2 B of all.
"""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from owl2.modeling import Owl2ForConditionalGeneration, Owl2VisualAbstractor
from owl2.training.adapters.quantize import waits_for_4_bits

from .activation_checkpointing import ActivationCheckpointing, prepare_block
from .mesh import Mesh
from .tensor_parallel import split_over_tensor_ranks

LOCAL_ACCUMULATION_SHARE = 0.25
"""The share of the device's memory that whole gradients may take, to be sent once for several micro-batches."""


def parallelize(
    model: Owl2ForConditionalGeneration,
    mesh: Mesh,
    compute_dtype: torch.dtype = torch.float32,
    activation_checkpointing: ActivationCheckpointing = "none",
    compile: bool = False,
) -> None:
    """Makes the models of all ranks one model over all of them, in place.

    Call it after `requires_grad` was set, and before the optimizer is made. Trained parameters become float32
    `DTensor`s, of which a rank holds its shard; they are gathered in `compute_dtype` layer by layer. Gradients are
    float32 sums over the data ranks: the loss of each rank must be divided by the count over all of them.

    Args:
        model: On several ranks, a model without weights (on the device "meta"), which `broadcast_weights` fills. One
            process may have a model with weights as well.
        activation_checkpointing, compile: See `prepare_block`.

    Raises:
        ValueError: Heads cannot be shared evenly by the tensor ranks.
    """
    for parameter in model.parameters():
        assert parameter.is_meta or mesh.size == 1, "ranks could begin with different weights"
        if parameter.is_floating_point() and not waits_for_4_bits(parameter):
            device = parameter.device if parameter.is_meta else mesh.device
            parameter.data = parameter.data.to(device, torch.float32 if parameter.requires_grad else compute_dtype)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(mesh.device))
    if mesh.tensor > 1:
        split_over_tensor_ranks(model, mesh.device_mesh["tensor"])
    blocks = blocks_of(model)
    for block in blocks:
        prepare_block(block, activation_checkpointing, compile)
    if mesh.size > 1 or compute_dtype != torch.float32:
        _shard(model, blocks, mesh, compute_dtype)


def blocks_of(model: Owl2ForConditionalGeneration) -> list[nn.Module]:
    """The layers of the vision encoder, the abstractor and the language decoder."""
    core = model.base_model
    of_connector = core.abstractor.layers if isinstance(core.abstractor, Owl2VisualAbstractor) else ()
    return [*core.vision_tower.layers, *of_connector, *core.language_model.layers]


def _shard(
    model: Owl2ForConditionalGeneration, blocks: list[nn.Module], mesh: Mesh, compute_dtype: torch.dtype
) -> None:
    """Shards one unit per layer, and one each for the rest of the encoder, the abstractor and the whole model."""
    data_mesh = mesh.device_mesh["replicate", "shard"] if mesh.device_mesh["replicate"].size() > 1 else None
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    units = [*blocks, model.base_model.vision_tower, model.base_model.abstractor]
    units = [unit for unit in units if any(parameter.requires_grad for parameter in unit.parameters())]
    for unit in [*units, model]:
        fully_shard(
            unit,
            mesh=mesh.device_mesh["shard"] if data_mesh is None else data_mesh,
            mp_policy=policy,
            ignored_params=frozen,
        )
        if mesh.size > 1:  # sums, since the loss is divided already; one process would divide by 1, at some cost
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)


def synchronize_gradients(model: nn.Module, last: bool, device: torch.device) -> None:
    """Prepares the exchange of gradients before each forward pass of an accumulated batch.

    Between micro-batches gradients stay whole on each rank and are not sent, and gathered parameters are kept, where
    the device has room for both (`LOCAL_ACCUMULATION_SHARE`); elsewhere each micro-batch sends its gradients.

    Args:
        last: Whether this is the last micro-batch before the optimizer's step.
    """
    if not isinstance(model, FSDPModule):
        return
    exchange = last or not _has_room_for_whole_gradients(model, device)
    model.set_requires_gradient_sync(exchange)
    model.set_reshard_after_backward(exchange)
    model.set_is_last_backward(last)


def _has_room_for_whole_gradients(model: nn.Module, device: torch.device) -> bool:
    if device.type != "cuda":  # they would come and go beside the sharded ones, and fragment the heap
        return False
    whole = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    bytes_needed = whole * (torch.float32.itemsize + torch.bfloat16.itemsize)
    return bytes_needed <= LOCAL_ACCUMULATION_SHARE * torch.cuda.get_device_properties(device).total_memory
