"""A recipe: everything that decides a training run, as one strict document (paper, section 4.1; supplement, Table 9).

`owl2.training.recipe.yaml_file` reads it from YAML. Every section has a class beside this file; a default is the
paper's value where both stages share one, and otherwise a value that is rarely changed.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from .base import Section
from .data import STAGE_FORMATS, DataSettings
from .model import ModelSettings
from .operation import CheckpointSettings, EvaluateSettings, LimitSettings, LoggingSettings, ParallelSettings
from .optimization import BatchSettings, OptimizerSettings, ScheduleSettings, TrainSettings
from .quality import QualitySettings


class Recipe(Section):
    """All settings of a run.

    Attributes:
        quality: Soft labels of image quality, from sources `quality` and `aesthetics` of a mixture.
        precision: `bf16`, `fp32`, or `auto`: bf16 on a GPU and on a CPU where its matrix products are faster.
        out: The run directory.
    """

    stage: Literal["pretrain", "instruct"]
    model: ModelSettings
    data: DataSettings
    train: TrainSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    batch: BatchSettings
    quality: QualitySettings | None = None
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
        if self.quality is not None and (self.stage == "pretrain" or self.data.packing.enabled):
            raise ValueError("quality compares the samples of a batch: it needs stage instruct and no data.packing")
        if self.batch.group_by_modality_length and self.stage == "pretrain":
            raise ValueError("batch.group_by_modality_length is for stage instruct: pairs are all of one kind")
        if self.data.augment is True and self.stage == "instruct":
            raise ValueError("data.augment is for stage pretrain: a crop may cut off what a question is about")
        if self.model.adapter is not None and self.train.lora is None:
            raise ValueError(
                "model.adapter needs train.lora with the settings of its adapters; to train on in full, merge it into "
                "its base (owl2 merge-lora) and give the result as model.checkpoint"
            )
        if self.model.new_words and (self.train.lora is not None or "embeddings" not in self.train.parts):
            raise ValueError(
                "model.new_words adds tokens that must learn: it needs embeddings in train.parts and no train.lora"
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
        """Every key with its value, as plain values for YAML."""
        return self.model_dump(mode="json")
