"""The presets of the quickstart: which recipes make a model, one after the other."""

from typing import NamedTuple


class Preset(NamedTuple):
    """A model that the quickstart can make.

    Attributes:
        text: Recipe of its language model; `None` for SmolLM2 from its package.
        vision: Recipe that trains its vision encoder before stage 1, if there is one.
        pretraining, instruction_tuning: Recipes of stages 1 and 2 of the paper.
        evaluation_batch_size: Questions that are answered at a time.
    """

    name: str
    text: str | None
    vision: str | None
    pretraining: str
    instruction_tuning: str
    evaluation_batch_size: int


PRESETS = {
    "nano": Preset("nano", "quickstart/nano_text", None, "quickstart/nano_pretrain", "quickstart/nano_instruct", 256),
    "smol": Preset("smol", None, "quickstart/smol_vision", "quickstart/smol_pretrain", "quickstart/smol_instruct", 128),
}


def check_preset(name: str) -> None:
    """Refuses names that are not presets.

    Raises:
        ValueError: There is no preset of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose among {', '.join(PRESETS)}")
