"""Loss and perplexity of held-out samples after a stage of a cell."""

import math
from pathlib import Path

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.training.distributed.mesh import build_mesh, process_group
from owl2.training.monitoring.validation_loss import read_validation_set, validation_loss
from owl2.training.recipe.data import STAGE_FORMATS, Packing
from owl2.training.recipe.schema import Recipe
from owl2.training.step import BatchPreparation

from .measurement import SourceLoss

KEYS = ("loss", "perplexity", "supervised_tokens", "samples")
"""What a loss measures."""

_SEED = 0  # of samples and their order, where the source has none of its own: the same for every cell


def held_out_loss(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    wanted: SourceLoss,
    recipe: Recipe,
    batch_size: int,
    directory: Path,
) -> dict[str, float]:
    """Mean loss over the supervised tokens of held-out samples, by the keys of `KEYS`.

    Args:
        recipe: How samples are prepared: that of the stage that is measured.
        directory: What has to be indexed is kept there.

    Raises:
        ValueError: The source cannot be read, or none of its samples has an answer.
    """
    stage = "instruct" if wanted.source.format in STAGE_FORMATS["instruct"] else "pretrain"
    changes = {
        "stage": stage,
        "seed": _SEED,
        "data": recipe.data.model_copy(update={"packing": Packing()}),
        "batch": recipe.batch.model_copy(update={"micro_batch_size": batch_size}),
    }
    prepared = recipe.model_copy(update=changes)
    with process_group() as device:
        mesh = build_mesh(device)
        held_out = read_validation_set(
            prepared, {"held_out": wanted.source}, wanted.samples, directory, processor, mesh
        )
        if not held_out.supervised:
            raise ValueError(f"no sample of {wanted.source.format} has an answer to measure the loss of")
        preparation = BatchPreparation.of(processor, device)
        found = validation_loss(model, held_out, preparation, mesh)
    model.eval()
    values = (found.loss, math.exp(found.loss), float(found.supervised_tokens), float(found.samples))
    return dict(zip(KEYS, values, strict=True))
