"""What a stage trains (paper, section 3.4): parts of the model by name."""

import re
from collections.abc import Iterable

from owl2.modeling import Owl2ForConditionalGeneration

_PARTS = {
    "vision_encoder": r"^model\.vision_tower\.",
    "abstractor": r"^model\.abstractor\.",
    "vision_half": r"^model\.language_model\..*vision_",
    "embeddings": r"^model\.language_model\.embed_tokens\.|^lm_head\.",
    "text_half": r"^model\.language_model\.layers\.",  # the separate parts' text copies; see part_of
    "shared": r"^model\.language_model\.",
}
PARTS = tuple(_PARTS)
"""Vision encoder; visual abstractor; of the decoder the vision copies, embeddings, text copies and the rest."""

PRETRAINING_PARTS = ("vision_encoder", "abstractor", "vision_half")
"""Stage 1: the language model is frozen, the vision half of the modality-adaptive module is not."""

INSTRUCTION_TUNING_PARTS = PARTS
"""Stage 2: everything."""


def part_of(name: str, modality_adaptive: Iterable[str]) -> str:
    """The part that a parameter belongs to."""
    plain = plain_name(name)
    for part, pattern in _PARTS.items():
        if not re.match(pattern, plain):
            continue
        if part != "text_half" or _is_separate(plain, modality_adaptive):
            return part
    raise ValueError(f"The parameter {name} belongs to none of {', '.join(PARTS)}.")


def _is_separate(name: str, modality_adaptive: Iterable[str]) -> bool:
    """Whether the parameter has a copy for vision."""
    kinds = {"norm": r"layernorm\.weight$", "q": r"\.q_proj\.", "k": r"\.k_proj\.", "v": r"\.v_proj\."}
    return any(re.search(kinds[kind], name) for kind in modality_adaptive)


def is_language_model(name: str) -> bool:
    """Whether a parameter came with the language model: all of the decoder and head but the vision copies."""
    return not re.match(rf"{_PARTS['vision_encoder']}|{_PARTS['abstractor']}|{_PARTS['vision_half']}", plain_name(name))


def plain_name(name: str) -> str:
    """The name of a parameter in the model itself, without what PEFT, checkpointing and compilation put around it."""
    return re.sub(
        r"^base_model\.model\.|\b_orig_mod\.|\b_checkpoint_wrapped_module\.|\bbase_layer\.|\bmodules_to_save\.\w+\.",
        "",
        name,
    )


def select_trainable(model: Owl2ForConditionalGeneration, parts: Iterable[str]) -> dict[str, int]:
    """Lets exactly the given parts train.

    Returns:
        Number of parameters of every part.

    Raises:
        ValueError: there is no such part.
    """
    parts = set(parts)
    if parts - set(PARTS):
        raise ValueError(f"There are no parts {sorted(parts - set(PARTS))}; choose among {', '.join(PARTS)}.")
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name, model.config.text_config.modality_adaptive)
        parameter.requires_grad_(part in parts)
        counts[part] += parameter.numel()
    return counts
