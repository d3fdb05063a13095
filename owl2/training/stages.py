"""The parts of the model that a stage trains (paper, section 3.4), by name."""

from collections.abc import Iterable

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.parts import PARTS, part_of

PRETRAINING_PARTS = ("vision_encoder", "abstractor", "decoder_vision")
"""Stage 1: the language model is frozen, the vision half of the modality-adaptive module trains."""

INSTRUCTION_TUNING_PARTS = PARTS
"""Stage 2: everything trains."""


def select_trainable(model: Owl2ForConditionalGeneration, parts: Iterable[str]) -> dict[str, int]:
    """Selects exactly the given parts for training.

    Returns:
        Number of parameters of every part.

    Raises:
        ValueError: There is no such part.
    """
    parts = set(parts)
    if parts - set(PARTS):
        raise ValueError(f"there are no parts {sorted(parts - set(PARTS))}; choose among {', '.join(PARTS)}")
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name, model.config.text_config.modality_adaptive)
        parameter.requires_grad_(part in parts)
        counts[part] += parameter.numel()
    return counts
