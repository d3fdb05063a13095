"""One optimizer step over the whole global batch: all micro-batches of all ranks, one loss, one gradient.

The loss is the sum over the supervised tokens of the global batch, divided by their number over all ranks. So the
gradient does not depend on how the batch is cut into micro-batches and ranks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import distributed as dist

from owl2.data.decoding import normalize_pixels
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.training.data.loader import Batch, Counts, RankBatch
from owl2.training.distributed.mesh import Mesh
from owl2.training.distributed.parallelize import synchronize_gradients


class GlobalCounts(NamedTuple):
    """What the ranks tell each other before a step.

    Attributes:
        counts: of the global batch.
        micro_batches: most that a rank has; each runs so many, since every rank must run every layer as often.
        stop: a rank was asked to stop.
    """

    counts: Counts
    micro_batches: int
    stop: bool


class Normalization(NamedTuple):
    """Mean and standard deviation of the channels that the vision encoder expects."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def reduce_counts(batch: RankBatch, stop: bool, mesh: Mesh) -> GlobalCounts:
    """Counts over all data ranks, from the shares of each."""
    counts = mesh.sum_over_data(torch.tensor(batch.counts))
    most = torch.tensor([len(batch.micro_batches), int(stop)])
    dist.all_reduce(most, dist.ReduceOp.MAX, group=mesh.host_group)
    return GlobalCounts(Counts(*counts.tolist()), int(most[0]), bool(most[1]))


def accumulate_gradients(
    model: Owl2ForConditionalGeneration,
    micro_batches: Iterable[Batch],
    count: int,
    empty_batch: Batch,
    supervised: int,
    mesh: Mesh,
    normalization: Normalization,
) -> float:
    """Forward and backward passes of this rank's share.

    Args:
        micro_batches: this rank's; `empty_batch` takes the place of those it lacks to `count`.
        supervised: supervised tokens of the global batch.

    Returns:
        Loss of the global batch: mean over its supervised tokens, on all ranks the same.
    """
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)
    given = iter(micro_batches)
    for index in range(count):
        batch = on_device(next(given, empty_batch), mesh.device, normalization)
        synchronize_gradients(model, index == count - 1, mesh.device)
        loss = summed_loss(model, batch) / max(1, supervised)
        loss.backward()
        total += loss.detach()
    return mesh.sum_over_data(total).item()


def summed_loss(model: Owl2ForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Sum of the losses of a batch's supervised tokens."""
    return model(**batch, num_items_in_batch=1, loss_only=True, use_cache=False).loss


def on_device(batch: Batch, device: torch.device, normalization: Normalization) -> Batch:
    """The batch on the device, its pixels normalised there."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    if "pixel_values" in moved:
        moved["pixel_values"] = normalize_pixels(moved["pixel_values"], *normalization)
    return moved
