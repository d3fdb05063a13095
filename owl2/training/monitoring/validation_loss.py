"""The loss of held-out samples while a run trains: every rank has its share, the same samples each time."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed as dist

from owl2.data.skipped import SkipCounter, SkipLimit
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.stop_signal import StopRequested
from owl2.training.checkpoint.rng_state import rng_state, set_rng_state
from owl2.training.data.loader import Batch, BatchingConfig, StageDataLoader
from owl2.training.data.stage_data import open_stage_data
from owl2.training.distributed.mesh import Mesh
from owl2.training.recipe.data import SourceSettings
from owl2.training.recipe.schema import Recipe
from owl2.training.step import BatchPreparation, reduce_counts, summed_loss


class ValidationSet(NamedTuple):
    """Held-out samples of this rank.

    Attributes:
        micro_batches: Micro-batches on the CPU.
        supervised, samples: Numbers over all ranks together.
    """

    micro_batches: list[Batch]
    supervised: int
    samples: int


class HeldOutLoss(NamedTuple):
    """The mean loss over the supervised tokens of the samples of all ranks, and their numbers."""

    loss: float
    supervised_tokens: int
    samples: int


def open_validation_set(recipe: Recipe, directory: Path, processor: Owl2Processor, mesh: Mesh) -> ValidationSet | None:
    """The held-out samples of a recipe; `None` if it names none.

    Args:
        directory: Run directory, as for `open_stage_data`.
    """
    settings = recipe.evaluate
    if not settings.every or not settings.sources:
        return None
    return read_validation_set(recipe, settings.sources, settings.samples, directory, processor, mesh)


def read_validation_set(
    recipe: Recipe, sources: dict[str, SourceSettings], most: int, directory: Path, processor: Owl2Processor, mesh: Mesh
) -> ValidationSet:
    """Reads samples of sources as a recipe prepares them, but without augmentation.

    Args:
        most: Largest number of samples.
        directory: As in `open_stage_data`.
    """
    unaugmented = recipe.data.model_copy(update={"augment": False})
    plain = recipe.model_copy(update={"data": unaugmented, "quality": None})
    before = rng_state()
    data = open_stage_data(plain, sources, directory)
    count = min(most, sum(size for _, size, _ in data.describe()))
    counter = SkipCounter(SkipLimit(recipe.data.bad_share))
    batching = BatchingConfig.of(recipe)
    loader = StageDataLoader(data, processor, batching, count, counter, mesh.data_rank, mesh.data_size)
    batch = next(loader.batches(1))
    set_rng_state(before)  # a run draws the same numbers whether it is evaluated or not
    counts = reduce_counts(batch, False, mesh).counts
    return ValidationSet(batch.micro_batches, counts.supervised, counts.samples)


@torch.no_grad()
def validation_loss(
    model: Owl2ForConditionalGeneration,
    held_out: ValidationSet,
    preparation: BatchPreparation,
    mesh: Mesh,
    stopped: Callable[[], bool] = lambda: False,
) -> HeldOutLoss:
    """The loss of held-out samples; every rank calls it.

    Args:
        stopped: Whether to stop; asked before each micro-batch.

    Raises:
        StopRequested: A rank was asked to stop.
    """
    most = torch.tensor([len(held_out.micro_batches)])
    dist.all_reduce(most, dist.ReduceOp.MAX, group=mesh.host_group)
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)
    given = iter(held_out.micro_batches)
    model.eval()
    # In training mode a batch without images runs every layer too, as other ranks do; these two decide it.
    for module in (model.base_model, model.base_model.language_model):
        module.training = True
    try:
        for _ in range(int(most)):
            if mesh.any_of(stopped()):
                raise StopRequested
            total += summed_loss(model, preparation.inputs(next(given, None)))
    finally:
        model.train()
    loss = mesh.sum_over_data(total).item() / max(1, held_out.supervised)
    return HeldOutLoss(loss, held_out.supervised, held_out.samples)
