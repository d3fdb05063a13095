"""Questions as inputs of the model: conversations with their answers, in batches with labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from owl2.data.records import turns
from owl2.data.sources.english import Fact
from owl2.evaluation.task import Sample
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor, load_image

Encoded = dict[str, Any]


def encode_question(processor: Owl2Processor, sample: Sample) -> Encoded:
    """A question about pictures with its right answer, which is learnt."""
    images = [load_image(image() if callable(image) else image) for image in sample.images]
    return processor.encode_conversation(turns([(sample.prompt, str(sample.gold))], len(images)), images=images)


def encode_fact(processor: Owl2Processor, fact: Fact) -> Encoded:
    """A question without a picture with its answer in a sentence, which is learnt."""
    return processor.encode_conversation(turns([(fact.question, fact.statement)]))


def in_batches(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, samples: Sequence[Encoded], size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Samples as inputs of the model, on its device and in its precision; the last batch may be smaller."""
    for start in range(0, len(samples), size):
        batch = processor.pad(samples[start : start + size])
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
        yield {name: values.to(model.device) for name, values in batch.items()}
