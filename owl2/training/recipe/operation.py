"""Sections of a recipe that do not decide what is learnt: ranks, checkpoints, reports, evaluations, limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from .base import NotNegative, Positive, Section
from .data import SourceSettings


class ParallelSettings(Section):
    """The distribution of a run over the processes of torchrun; a single process ignores all but the last three.

    Attributes:
        data_shards: Number of ranks over which trained parameters are sharded; "auto" is all of a machine.
        replicas: Number of copies of the shards, over the machines; "auto" follows from the other ranks.
        tensor: Number of ranks that share every layer.
        activation_checkpointing: "selective" keeps the outputs of attention and computes the rest again, "full" keeps
            the input of each layer.
        compile: Compile each layer with `torch.compile`.
        stall_timeout_s: Seconds after which a rank that makes no step is reported and the run is ended.
    """

    data_shards: Positive | Literal["auto"] = "auto"
    replicas: Positive | Literal["auto"] = "auto"
    tensor: Literal[1, 2] = 1
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    stall_timeout_s: Annotated[float, Field(gt=0)] = 1800.0


class CheckpointSettings(Section):
    """Checkpoints to resume from: one every `every` steps, of which the newest `keep` remain."""

    every: Positive = 500
    keep: Positive = 2
    asynchronous: bool = True


class LoggingSettings(Section):
    """A line in `metrics.jsonl` every `every` steps, and the same for TensorBoard on request."""

    every: Positive = 1
    tensorboard: bool = False


class TaskSettings(Section):
    """The settings of a benchmark of `owl2 evaluate` while the model trains; the defaults are the benchmark's own.

    Attributes:
        data: Directory of the benchmarks (docs/evaluation/evaluate.md).
        suffix: The text after the chat template `USER: ... ASSISTANT:`.
        limit: Number of first samples to answer.
        batch_size: Samples that a rank answers at a time; it does not change results.
    """

    data: str = "data"
    split: str | None = None
    prompt: str | None = None
    suffix: str | None = None
    limit: Positive | None = None
    batch_size: Positive = 8


class EvaluateSettings(Section):
    """The measurements every `every` steps (0: never).

    Attributes:
        sources: Held-out samples, in the formats of `data.sources`, for their loss.
        samples: Largest number of them.
        tasks: Benchmarks by name, for their scores.
    """

    every: NotNegative = 0
    sources: dict[str, SourceSettings] = {}
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
    """The limits at which a step is skipped, and the run is ended.

    Attributes:
        spike_factor: A loss of more than this many times the running median skips the step.
        skipped_in_a_row, skipped_in_all: The run ends when more steps than this were skipped.
    """

    spike_factor: Annotated[float, Field(gt=1)] = 4.0
    skipped_in_a_row: NotNegative = 5
    skipped_in_all: NotNegative = 100
