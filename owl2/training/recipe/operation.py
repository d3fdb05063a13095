"""Sections of a recipe that do not decide what is learnt: ranks, checkpoints, reports, evaluations, limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from .base import NotNegative, Positive, Section
from .data import Source


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
