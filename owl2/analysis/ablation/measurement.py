"""What a grid measures of a model: a benchmark of `owl2 evaluate`, or the loss of held-out samples of a source."""

from typing import Self

from pydantic import model_validator

from owl2.training.recipe.base import Positive, Section
from owl2.training.recipe.data import SourceSettings


class SourceLoss(Section):
    """Loss and perplexity of samples of a source, prepared as the recipe of the stage prepares its own.

    Formats of stage 2 are read as its conversations, after stage 1 too: `kinds: [text]` of scenes, or `english`, is
    what a model knows of text. Every cell is given the same samples.

    Attributes:
        samples: The largest number of samples.
    """

    source: SourceSettings
    samples: Positive = 256


class Measurement(Section):
    """A benchmark of `owl2 evaluate` (`task`), or the loss of a source (`loss`).

    Attributes:
        after: The stage whose model is measured; the last by default.
        split, prompt, limit: Settings of the benchmark.
        batch_size: Samples at a time.
    """

    task: str | None = None
    loss: SourceLoss | None = None
    after: str | None = None
    split: str | None = None
    prompt: str | None = None
    limit: int | None = None
    batch_size: Positive = 64

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.task is None) == (self.loss is None):
            raise ValueError("a measurement has either a task (a benchmark) or a loss (of a source)")
        given = [key for key in ("split", "prompt", "limit") if getattr(self, key) is not None]
        if self.loss is not None and given:
            raise ValueError(
                f"{given[0]} is a key of a benchmark, not of a loss: see loss.source.split and loss.samples"
            )
        return self

    def limited(self, samples: int) -> "Measurement":
        """The same measurement of at most `samples` samples."""
        if self.loss is not None:
            fewer = self.loss.model_copy(update={"samples": min(samples, self.loss.samples)})
            return self.model_copy(update={"loss": fewer})
        return self.model_copy(update={"limit": samples if self.limit is None else min(samples, self.limit)})
