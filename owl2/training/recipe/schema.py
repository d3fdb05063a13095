"""A recipe: everything that decides a training run, as one strict document (paper, section 4.1; supplement, Table 9).

`owl2.training.recipe.yaml_file` reads it from YAML. Every section and key is listed here; a default is the paper's
value where both stages share one, and else what hardly anybody changes.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PartName = Literal["vision_encoder", "abstractor", "decoder_vision", "decoder_text", "decoder_shared", "embeddings"]


STAGE_FORMATS = {
    "pretrain": ("easy_vqa", "jsonl", "parquet", "coco_captions", "webdataset"),
    "instruct": ("easy_vqa", "records", "mixture"),
}
"""Formats of sources that each stage learns from."""


class Section(BaseModel):
    """Keys that do not exist are refused, and numbers that are none; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SmallLanguageModel(Section):
    """A small LLaMA with random weights, and a tokenizer made from the texts of the data: needs no files."""

    vocab_size: Positive = 2048
    hidden_size: Positive = 128
    intermediate_size: Positive = 336
    num_hidden_layers: Positive = 3
    num_attention_heads: Positive = 4
    num_key_value_heads: Positive | None = None
    max_position_embeddings: Positive = 1024
    initializer_range: float = 0.06
    tie_word_embeddings: bool = True


class VisionSizes(Section):
    """Sizes of a random vision encoder, whose resolution is `data.image_size`."""

    hidden_size: Positive = 1024
    intermediate_size: Positive = 4096
    num_hidden_layers: Positive = 24
    num_attention_heads: Positive = 16
    patch_size: Positive = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02


class AbstractorSizes(Section):
    """Sizes of the visual abstractor (section 4.1: 6 layers, 64 learnable queries)."""

    intermediate_size: Positive = 2816
    num_hidden_layers: Positive = 6
    num_attention_heads: Positive = 16
    num_learnable_queries: Positive = 64
    initializer_range: float = 0.02


class Initialize(Section):
    """A new model: a language model, a CLIP ViT and a random abstractor.

    Attributes:
        language_model: directory or `.gguf` file of a LLaMA-family model, or sizes of a random one.
        vision_encoder: directory of a CLIP checkpoint; without it the encoder is random, of the sizes `vision`.
    """

    language_model: str | SmallLanguageModel
    vision_encoder: str | None = None
    vision: VisionSizes | None = None
    abstractor: AbstractorSizes = AbstractorSizes()

    @model_validator(mode="after")
    def _one_vision_encoder(self) -> Self:
        if self.vision_encoder is not None and self.vision is not None:
            raise ValueError("vision_encoder decides the sizes of the vision encoder: leave vision out")
        return self


class ModelSettings(Section):
    """The model at the first step; of `checkpoint` and `initialize`, the one that was given last counts.

    Attributes:
        checkpoint: directory of a whole mPLUG-Owl2 in our or the official layout.
        adapter: adapter folder of an earlier run on that checkpoint, whose training goes on; it needs `train.lora`.
        initialize: a new model.
        modality_adaptive: parts of a decoder layer with a copy for vision, [norm, k, v] for a new model if not given. A
            checkpoint must have exactly these, if they are given.
        attention: implementation of attention in the language decoder, the vision encoder and the abstractor.
    """

    checkpoint: str | None = None
    adapter: str | None = None
    initialize: Initialize | None = None
    modality_adaptive: tuple[Literal["norm", "q", "k", "v"], ...] | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.checkpoint is None) == (self.initialize is None):
            raise ValueError(
                "give exactly one of checkpoint (a directory) and initialize (what a new model is made of)"
            )
        if self.adapter is not None and self.checkpoint is None:
            raise ValueError("adapter goes on top of the model it was trained on: give that as checkpoint")
        return self


_KEYS_OF_FORMATS = {
    "root": ("records", "jsonl", "parquet", "coco_captions"),
    "index": ("webdataset",),
    "image_field": ("jsonl", "parquet"),
    "caption_field": ("jsonl", "parquet", "webdataset"),
    "max_questions": ("easy_vqa",),
}


class Source(Section):
    """One source of samples.

    Attributes:
        format: `easy_vqa` (captions in stage pretrain, conversations in stage instruct), `records` (conversations of
            LLaVA's or the chat-messages form), `mixture` (a YAML file of instruction sources), or image-caption
            pairs: `jsonl`, `parquet`, `coco_captions`, `webdataset`.
        path: the file or, for `webdataset`, the directory or address of the shards.
        root: directory of the images; that of the file by default.
        weight: share of the samples drawn from this source, relative to the other weights; by default its number of
            samples.
        index: of `webdataset`: directory of the index, if it is not beside the shards.
        image_field, caption_field: names of the fields or columns of `jsonl` and `parquet`; of `webdataset`, the field
            of `.json` that holds the caption, instead of `.txt`.
        split: of easy-VQA.
        max_questions: easy-VQA's questions of one image are split into conversations of at most so many.
    """

    format: Literal["easy_vqa", "records", "mixture", "jsonl", "parquet", "coco_captions", "webdataset"]
    path: str | None = None
    root: str | None = None
    weight: Annotated[float, Field(gt=0)] | None = None
    index: str | None = None
    image_field: str | None = None
    caption_field: str | None = None
    split: Literal["train", "test"] = "train"
    max_questions: Positive | None = None

    @model_validator(mode="after")
    def _path_of_a_file(self) -> Self:
        if (self.path is None) != (self.format == "easy_vqa"):
            wanted = "takes no path" if self.path is not None else "needs a path"
            raise ValueError(f"a source of the format {self.format} {wanted}")
        for key, formats in _KEYS_OF_FORMATS.items():
            if getattr(self, key) is not None and self.format not in formats:
                raise ValueError(f"{key} is a key of {', '.join(formats)}, not of {self.format}")
        return self


class Packing(Section):
    """Whole samples side by side in rows. What a step learns does not depend on it, only how fast.

    Attributes:
        length: most tokens of a row; `data.max_length` by default.
        buffer: samples of a step that are packed together; more of them leave less padding.
    """

    enabled: bool = False
    length: Positive | None = None
    buffer: Positive = 1024


class DataSettings(Section):
    """What is learnt from.

    Attributes:
        sources: by name.
        image_size: pixels of a side.
        augment: random resized crop and horizontal flip, as in BLIP-2 (section 4.1); only for pairs, since questions
            may be about what a crop cuts off.
        keep_left_and_right: do not flip an image whose caption says left or right.
        max_length: tokens of a sample, visual rows included. Longer texts are cut at their end; a sample whose images
            or whose answer would be lost is left out, and counted.
        workers: processes that prepare batches on each rank; 0 prepares them between the steps.
        bad_share: the run ends when more than this share of a source's samples, and at least 100, are broken.
        cache: directory for the index of `records`; `cache` in the run directory by default.
    """

    sources: Annotated[dict[str, Source], Field(min_length=1)]
    image_size: Positive
    max_length: Positive
    augment: bool = False
    keep_left_and_right: bool = False
    packing: Packing = Packing()
    workers: NotNegative = 2
    bad_share: Share = 0.05
    cache: str | None = None

    @model_validator(mode="after")
    def _rows_hold_samples(self) -> Self:
        if self.packing.length is not None and self.packing.length < self.max_length:
            raise ValueError(f"packing.length {self.packing.length} is below max_length {self.max_length}")
        return self


class Lora(Section):
    """Low-rank adapters of the language model, through PEFT.

    Attributes:
        targets: linear layers of the language decoder; copies for vision are named with them (`vision_k_proj`).
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
    """What trains.

    Attributes:
        parts: these train in full; all others are frozen.
        lora: adapters on the language model, whose parts may then not be in `parts` (the vision half may).
        quantization: precision in which the frozen language model is kept; needs `lora`.
        drop_path: Table 9 has 0, and the vision encoder has no other.
    """

    parts: tuple[PartName, ...]
    lora: Lora | None = None
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
    """AdamW (Table 9).

    Attributes:
        learning_rate, min_learning_rate: peak and end of the schedule.
        vision_layer_decay: the rate of a vision layer is this many times that of the layer above it.
        language_lr_scale: rate of the language model's own weights, as a share of that of the vision parts.
        max_grad_norm: largest norm of the gradient.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
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
    """Sizes of batches. Gradients are accumulated over as many micro-batches as the global batch takes on the ranks.

    Attributes:
        global_batch_size: samples of an optimizer step over all ranks.
        micro_batch_size: samples (with packing: rows) of one forward pass on one rank.
    """

    global_batch_size: Positive
    micro_batch_size: Positive


class ParallelSettings(Section):
    """How a run is spread over the processes that torchrun starts; one process ignores all but the last three.

    Attributes:
        data_shards: ranks over which trained parameters are sharded; "auto" is all of a machine.
        replicas: copies of the shards, over the machines; "auto" is what is left of the ranks.
        tensor: ranks that share every layer.
        activation_checkpointing: "selective" keeps what attention gives and computes the rest again, "full" keeps the
            input of each layer.
        compile: compile each layer with `torch.compile`.
        stall_timeout_s: a rank that makes no step for so many seconds is reported, and ends the run.
    """

    data_shards: Positive | Literal["auto"] = "auto"
    replicas: Positive | Literal["auto"] = "auto"
    tensor: Literal[1, 2] = 1
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    stall_timeout_s: Annotated[float, Field(gt=0)] = 1800.0


class CheckpointSettings(Section):
    """Checkpoints to resume from: every so many steps, the newest `keep` of them."""

    every: Positive = 500
    keep: Positive = 2
    asynchronous: bool = True


class LoggingSettings(Section):
    """A line in `metrics.jsonl` every so many steps; the same for TensorBoard when asked."""

    every: Positive = 1
    tensorboard: bool = False


class TaskSettings(Section):
    """How a benchmark of `owl2 evaluate` is run while the model trains; the defaults are the benchmark's own.

    Attributes:
        data: directory of the benchmarks (docs/evaluation/evaluate.md).
        suffix: follows the frame `USER: ... ASSISTANT:`.
        limit: only the first so many samples.
        batch_size: samples that a rank answers at a time; it does not change results.
    """

    data: str = "data"
    split: str | None = None
    prompt: str | None = None
    suffix: str | None = None
    limit: Positive | None = None
    batch_size: Positive = 8


class EvaluateSettings(Section):
    """What is measured every so many steps (0: never).

    Attributes:
        sources: held-out samples, in the formats of `data.sources`, for their loss.
        samples: at most so many of them.
        tasks: benchmarks by name, for their scores.
    """

    every: NotNegative = 0
    sources: dict[str, Source] = {}
    samples: Positive = 256
    tasks: dict[str, TaskSettings] = {}

    @field_validator("tasks")
    @classmethod
    def _can_be_scored(cls, tasks: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        from owl2.evaluation.tasks import task_named

        for name, settings in tasks.items():
            task = task_named(name)
            prompt = task.prompt_for(task.chosen("split", settings.split), settings.prompt)
            judged = task.judged.protocols if task.judged else ()
            if set(task.protocols_for(prompt)) <= set(judged):
                raise ValueError(
                    f"{name} with the prompt {prompt!r} can only be scored by a judge, which is for the end: leave it "
                    "out here, and run owl2 evaluate --judge on a checkpoint"
                )
        return tasks

    @model_validator(mode="after")
    def _has_samples(self) -> Self:
        if self.every and not self.sources and not self.tasks:
            raise ValueError("evaluation every few steps needs sources of held-out samples, or tasks")
        return self


class LimitSettings(Section):
    """When a step is skipped, and when the run ends because of it.

    Attributes:
        spike_factor: a loss of more than so many times the running median skips the step.
        skipped_in_a_row, skipped_in_all: the run ends when more steps than this were skipped.
    """

    spike_factor: Annotated[float, Field(gt=1)] = 4.0
    skipped_in_a_row: NotNegative = 5
    skipped_in_all: NotNegative = 100


class Recipe(Section):
    """All of a run.

    Attributes:
        precision: `bf16`, `fp32`, or `auto`: bf16 on a GPU and on a CPU where its matrix products are faster.
        out: the run directory.
    """

    stage: Literal["pretrain", "instruct"]
    model: ModelSettings
    data: DataSettings
    train: TrainSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    batch: BatchSettings
    precision: Literal["bf16", "fp32", "auto"] = "bf16"
    parallel: ParallelSettings = ParallelSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    logging: LoggingSettings = LoggingSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    limits: LimitSettings = LimitSettings()
    seed: int = 0
    out: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, source in [*self.data.sources.items(), *self.evaluate.sources.items()]:
            if source.format not in STAGE_FORMATS[self.stage]:
                raise ValueError(
                    f"the source {name} is of the format {source.format}, but stage {self.stage} learns from "
                    f"{', '.join(STAGE_FORMATS[self.stage])}"
                )
        if (
            self.data.packing.enabled
            and self.model.attention == "flash_attention_2"
            and self.batch.micro_batch_size > 1
        ):
            raise ValueError(
                f"flash_attention_2 keeps packed samples apart only in batches of one row, but "
                f"batch.micro_batch_size is {self.batch.micro_batch_size}: make it 1 and data.packing.length longer"
            )
        if self.data.augment and self.stage == "instruct":
            raise ValueError("data.augment is for stage pretrain: a crop may cut off what a question is about")
        if self.model.adapter is not None and self.train.lora is None:
            raise ValueError(
                "model.adapter needs train.lora with the settings of its adapters; to train on in full, merge it into "
                "its base (owl2 merge-lora) and give the result as model.checkpoint"
            )
        if self.train.lora is not None and self.parallel.tensor > 1:
            raise ValueError("PEFT's layers cannot be split over ranks: train.lora needs parallel.tensor=1")
        if self.parallel.compile and self.parallel.tensor > 1:
            raise ValueError(
                "torch cannot compile layers that are split over ranks for batches of many shapes (its compiler "
                "recurses without end): parallel.tensor=2 needs parallel.compile=false"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, as plain values."""
        return self.model_dump(mode="json")
