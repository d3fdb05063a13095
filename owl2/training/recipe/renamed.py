"""Keys and parts that had other names: their present names, and how an old run directory is read."""

from typing import Any

KEYS = {
    ("optimizer", "clip"): "max_grad_norm",
    ("optimizer", "minimum_rate"): "min_learning_rate",
    ("optimizer", "language_rate"): "language_lr_scale",
    ("batch", "global_size"): "global_batch_size",
    ("batch", "micro_size"): "micro_batch_size",
}
"""The present name of a key by its section and former name."""

PARTS = {"vision_half": "decoder_vision", "text_half": "decoder_text", "shared": "decoder_shared"}
"""The present name of a part in `train.parts` by its former name."""


def with_present_names(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy of the recipe of a run that began under former names, with the present ones."""
    renamed = dict(tree)
    for (section, former), present in KEYS.items():
        inside = renamed.get(section)
        if isinstance(inside, dict) and former in inside:
            renamed[section] = {present if key == former else key: value for key, value in inside.items()}
    train = renamed.get("train")
    if isinstance(train, dict) and isinstance(train.get("parts"), list):
        renamed["train"] = {**train, "parts": [PARTS.get(part, part) for part in train["parts"]]}
    return renamed
