"""One optimizer step over the whole global batch: all micro-batches of all ranks, one loss, one gradient.

The loss is the sum over the supervised tokens of the global batch, divided by their number over all ranks. So the
gradient does not depend on how the batch is cut into micro-batches and ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import distributed as dist

from owl2.data.decoding import normalize_pixels
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.training.data.loader import Batch, Counts, RankBatch, empty_micro_batch
from owl2.training.distributed.mesh import Mesh
from owl2.training.distributed.parallelize import synchronize_gradients

from .quality_loss import QualityLoss


class GlobalCounts(NamedTuple):
    """The counts that the ranks exchange before a step.

    Attributes:
        counts: Counts of the global batch.
        micro_batches: Largest number of micro-batches of a rank; each runs that many, since ranks run layers together.
        stop: Whether a rank was asked to stop.
    """

    counts: Counts
    micro_batches: int
    stop: bool


class BatchPreparation(NamedTuple):
    """Prepares batches as inputs of the model.

    Attributes:
        device: Device of this rank.
        mean, std: Mean and standard deviation of the channels, as the vision encoder expects them.
        empty_batch: Padding alone, for a rank that has no micro-batch left while others do.
    """

    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    empty_batch: Batch

    @classmethod
    def of(cls, processor: Owl2Processor, device: torch.device) -> "BatchPreparation":
        images = processor.image_processor
        empty_batch = empty_micro_batch(processor.tokenizer.pad_token_id)
        return cls(device, tuple(images.image_mean), tuple(images.image_std), empty_batch)

    def inputs(self, batch: Batch | None) -> Batch:
        """The batch, or `empty_batch`, on the device, its pixels normalized there."""
        given = self.empty_batch if batch is None else batch
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in given.items()}
        if "pixel_values" in moved:
            moved["pixel_values"] = normalize_pixels(moved["pixel_values"], self.mean, self.std)
        return moved


def reduce_counts(batch: RankBatch, stop: bool, mesh: Mesh) -> GlobalCounts:
    """Sums the counts of all data ranks."""
    counts = mesh.sum_over_data(torch.tensor(batch.counts))
    most = torch.tensor([len(batch.micro_batches), int(stop)])
    dist.all_reduce(most, dist.ReduceOp.MAX, group=mesh.host_group)
    return GlobalCounts(Counts(*counts.tolist()), int(most[0]), bool(most[1]))


def accumulate_gradients(
    model: Owl2ForConditionalGeneration,
    micro_batches: Sequence[Batch],
    counts: GlobalCounts,
    mesh: Mesh,
    preparation: BatchPreparation,
    quality: QualityLoss | None = None,
) -> float:
    """Runs the forward and backward passes of this rank's share.

    Args:
        quality: Takes the place of the next-token loss.

    Returns:
        The loss of the global batch, the same on all ranks: the mean over its supervised tokens (with `quality`, over
        its samples).
    """
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)
    given = iter(micro_batches)
    for index in range(counts.micro_batches):
        inputs = preparation.inputs(next(given, None))
        synchronize_gradients(model, index == counts.micro_batches - 1, mesh.device)
        if quality is None:
            loss = summed_loss(model, inputs) / max(1, counts.counts.supervised)
        else:
            loss = quality.summed(model, inputs) / max(1, counts.counts.samples)
        loss.backward()
        total += loss.detach()
    return mesh.sum_over_data(total).item()


def summed_loss(model: Owl2ForConditionalGeneration, inputs: Batch) -> torch.Tensor:
    """The sum of the losses of a batch's supervised tokens."""
    return model(**inputs, num_items_in_batch=1, loss_only=True, use_cache=False).loss
