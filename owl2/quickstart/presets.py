"""The two presets of the quickstart: what differs between them is data."""

from typing import Any, NamedTuple

from owl2.training.loop import StageSettings


class Preset(NamedTuple):
    """Sizes and schedules.

    Attributes:
        language_model: sizes of the small LLaMA that is trained on the spot, or `None` for SmolLM2 from its package.
        text: the text stage of that language model.
        pretraining, instruction_tuning: stages 1 and 2 of the paper.
        questions_per_conversation: questions of one image are merged into conversations of at most so many.
        text_share: text-only instructions as a share of the conversations of stage 2.
    """

    name: str
    language_model: dict[str, Any] | None
    text: StageSettings | None
    vision: dict[str, Any]
    abstractor: dict[str, Any]
    pretraining: StageSettings
    instruction_tuning: StageSettings
    questions_per_conversation: int
    text_share: float
    evaluation_batch_size: int


# Both learn from nothing. Larger initial weights than the usual 0.02 let the picture through from the start: with 0.02,
# or with a third vision layer, colours were learnt long before shapes.
_VISION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.05,
}
_ABSTRACTOR = {
    "intermediate_size": 336,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_learnable_queries": 8,
    "initializer_range": 0.16,
}

NANO = Preset(
    name="nano",
    language_model={
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 336,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": 0.06,
        "tie_word_embeddings": True,
    },
    text=StageSettings(steps=860, batch_size=32, learning_rate=2e-3, min_learning_rate=1e-4),
    vision=_VISION,
    abstractor=_ABSTRACTOR,
    pretraining=StageSettings(steps=400, batch_size=64, learning_rate=1e-3, min_learning_rate=1e-4),
    instruction_tuning=StageSettings(
        steps=530, batch_size=32, learning_rate=1e-3, min_learning_rate=2e-5, language_lr_scale=0.4
    ),
    questions_per_conversation=6,
    text_share=0.15,
    evaluation_batch_size=256,
)
SMOL = Preset(
    name="smol",
    language_model=None,
    text=None,
    vision={**_VISION, "patch_size": 4},  # four times the patches cost little beside this language model
    abstractor=_ABSTRACTOR,
    # Behind 30 frozen layers AdamW needs three times as long to tell shapes apart.
    pretraining=StageSettings(steps=400, batch_size=16, learning_rate=1e-3, min_learning_rate=1e-4, muon_share=4.0),
    instruction_tuning=StageSettings(
        steps=250, batch_size=12, learning_rate=8e-4, min_learning_rate=2e-5, language_lr_scale=0.3
    ),
    questions_per_conversation=6,
    text_share=0.1,
    evaluation_batch_size=128,
)
PRESETS = {preset.name: preset for preset in (NANO, SMOL)}
