"""Sections `train`, `optimizer`, `schedule` and `batch` of a recipe: what trains, and how."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .base import NotNegative, Positive, Section, Share

PartName = Literal["vision_encoder", "abstractor", "decoder_vision", "decoder_text", "decoder_shared", "embeddings"]


class LoraSettings(Section):
    """Low-rank adapters of the language model, through PEFT.

    Attributes:
        targets: Linear layers of the language decoder; copies for vision are named like `vision_k_proj`.
    """

    rank: Positive = 128
    alpha: Positive = 256
    dropout: Share = 0.05
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


class TrainSettings(Section):
    """The parts that train.

    Attributes:
        parts: These train in full; all others are frozen.
        lora: Adapters on the language model, whose own weights may then not be in `parts` (`decoder_vision` may).
        quantization: Precision in which the frozen language model is kept; needs `lora`.
        drop_path: Table 9 has 0, and the vision encoder supports no other value.
    """

    parts: tuple[PartName, ...]
    lora: LoraSettings | None = None
    quantization: Literal["int4"] | None = None
    drop_path: Literal[0] = 0

    @model_validator(mode="after")
    def _something_trains(self) -> Self:
        if not self.parts and self.lora is None:
            raise ValueError("nothing would train: name parts or give lora")
        if self.quantization is not None and self.lora is None:
            raise ValueError("a quantized language model cannot train in full: give lora")
        doubled = {"decoder_text", "decoder_shared"} & set(self.parts) if self.lora is not None else set()
        if doubled:
            raise ValueError(f"{', '.join(sorted(doubled))} would train in full and through lora: take one of the two")
        return self


class OptimizerSettings(Section):
    """AdamW (Table 9), and Muon for a vision encoder that starts from nothing.

    Attributes:
        learning_rate, min_learning_rate: Learning rate at the peak and at the end of the schedule.
        vision_optimizer: Optimizer of the matrices of vision encoder and abstractor; Muon needs them unsharded.
        muon_lr_scale: Learning rate of parameters that Muon updates, as a multiple of that of the vision parts.
        vision_layer_decay: The rate of a vision layer is this many times that of the layer above it.
        language_lr_scale: Rate of the language model's own weights, as a share of that of the vision parts.
        max_grad_norm: Largest norm of the gradient.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    vision_optimizer: Literal["adamw", "muon"] = "adamw"
    muon_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    betas: tuple[Share, Share] = (0.9, 0.98)
    eps: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    vision_layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    language_lr_scale: Annotated[float, Field(gt=0)] = 1.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class ScheduleSettings(Section):
    """Linear warm-up, then half a cosine from the peak rate to the minimum (Table 9)."""

    steps: Positive
    warmup_steps: NotNegative
    kind: Literal["cosine"] = "cosine"

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than steps {self.steps}")
        return self


class BatchSettings(Section):
    """Sizes of batches. Gradients are accumulated over the micro-batches of a rank's share of the global batch.

    Attributes:
        global_batch_size: Samples of an optimizer step over all ranks.
        micro_batch_size: Samples (with packing: rows) of one forward pass on one rank.
        group_by_modality_length: Exchange conversations within eight batches, so that a batch has images or text alone,
            and like lengths: less padding, and short answers are not outweighed by the tokens of long texts.
    """

    global_batch_size: Positive
    micro_batch_size: Positive
    group_by_modality_length: bool = False
