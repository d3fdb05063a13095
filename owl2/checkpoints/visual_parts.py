"""Vision encoder and visual abstractor of one mPLUG-Owl2 for another, whose language model is a different one."""

from pathlib import Path

import torch
from transformers import AutoConfig

from owl2.modeling import CheckpointError, Owl2Config, Owl2ForConditionalGeneration

_INTO_THE_LANGUAGE_MODEL = ("projection.", "end_of_image")
"""The parts of the abstractor that depend on the width of the language model."""


def owl2_config_in(directory: str | Path) -> Owl2Config | None:
    """Configuration of the mPLUG-Owl2 in a directory; `None` if it holds another kind of model."""
    config = AutoConfig.from_pretrained(directory)
    return config if isinstance(config, Owl2Config) else None


@torch.no_grad()
def copy_visual_parts(model: Owl2ForConditionalGeneration, directory: str | Path) -> None:
    """Copies the vision encoder and the abstractor of a checkpoint into a model, in place.

    An MLP connector depends on the width of the language model as a whole: then only the vision encoder is copied.

    What leads from the abstractor into the language model, its projection and the end-of-image token, stays as it is.

    Args:
        model: Its vision encoder and abstractor have the sizes of those in the checkpoint.
        directory: An mPLUG-Owl2.

    Raises:
        CheckpointError: The sizes differ, or the checkpoint lacks weights.
    """
    source = Owl2ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    parts = ("vision_tower",) if model.config.connector == "mlp" else ("vision_tower", "abstractor")
    for part in parts:
        theirs = getattr(source.model, part).state_dict()
        for name, own in getattr(model.model, part).state_dict().items():
            if part == "abstractor" and name.startswith(_INTO_THE_LANGUAGE_MODEL):
                continue
            if name not in theirs or theirs[name].shape != own.shape:
                found = tuple(theirs[name].shape) if name in theirs else "missing"
                raise CheckpointError(
                    f"{part}.{name} is {found} in {directory}, but {tuple(own.shape)} in the new model: give the sizes "
                    "of the checkpoint"
                )
            own.copy_(theirs[name])
