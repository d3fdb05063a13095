"""Loss of held-out samples while a run trains: every rank its share, the same samples each time."""

from typing import NamedTuple

import torch
from torch import distributed as dist

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.training.data.loader import Batch, empty_micro_batch
from owl2.training.distributed.mesh import Mesh
from owl2.training.step import Normalization, on_device, summed_loss


class ValidationSet(NamedTuple):
    """Held-out samples of this rank.

    Attributes:
        micro_batches: on the CPU.
        supervised, samples: of all ranks together.
    """

    micro_batches: list[Batch]
    supervised: int
    samples: int


class HeldOutLoss(NamedTuple):
    """Mean loss over the supervised tokens of the samples of all ranks, and how many these are."""

    loss: float
    supervised_tokens: int
    samples: int


@torch.no_grad()
def validation_loss(
    model: Owl2ForConditionalGeneration,
    held_out: ValidationSet,
    pad_token_id: int,
    mesh: Mesh,
    normalization: Normalization,
) -> HeldOutLoss:
    """The loss of held-out samples; every rank calls it."""
    most = torch.tensor([len(held_out.micro_batches)])
    dist.all_reduce(most, dist.ReduceOp.MAX, group=mesh.host_group)
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)
    given = iter(held_out.micro_batches)
    model.eval()
    # In training mode a batch without images runs every layer too, as other ranks do; these two decide it.
    for module in (model.base_model, model.base_model.language_model):
        module.training = True
    for _ in range(int(most)):
        batch = next(given, None)
        empty_batch = empty_micro_batch(pad_token_id, few_shapes=False)
        total += summed_loss(model, on_device(empty_batch if batch is None else batch, mesh.device, normalization))
    model.train()
    loss = mesh.sum_over_data(total).item() / max(1, held_out.supervised)
    return HeldOutLoss(loss, held_out.supervised, held_out.samples)
