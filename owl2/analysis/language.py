"""What a model answers, and what it knows of text: answers of a whole set, perplexity of a corpus, facts."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from owl2.data.sources import english
from owl2.evaluation.inference.predictor import Predictor
from owl2.evaluation.task import Decoding, Prediction, Sample, Task
from owl2.evaluation.tasks.easy_vqa import TASK
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.owl2 import IGNORE_INDEX
from owl2.processing import Owl2Processor


def predictions(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    task: Task,
    samples: Sequence[Sample],
    max_new_tokens: int,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """Greedy answers to samples, in batches of like length; in the order of the samples.

    Args:
        task: Says what follows a prompt, and how images become square.
        on_batch: Called with the number of samples that a batch answered.
    """
    predictor = Predictor(model, processor, task, Decoding(max_new_tokens=max_new_tokens), task.suffix)
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index].prompt), samples[index].prompt))
    found: dict[int, Prediction] = {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        predicted = predictor.predict([predictor.prepare(samples[index]) for index in indices])
        found |= dict(zip(indices, predicted, strict=True))
        on_batch(len(indices))
    return [found[index] for index in range(len(samples))]


def answer(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    samples: Sequence[Sample],
    max_new_tokens: int = TASK.decoding[""].max_new_tokens,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers to samples, as `predictions` gives them for easy-VQA."""
    found = predictions(model, processor, TASK, samples, max_new_tokens, batch_size, on_batch)
    return [prediction.answer for prediction in found]


def language(model: Owl2ForConditionalGeneration, processor: Owl2Processor) -> dict[str, Any]:
    """Perplexity of held-out English, and the facts that the model knows."""
    facts = english.facts()
    replies = answer(model, processor, [Sample(each.question, each.question, None) for each in facts], 24)
    return {
        "perplexity": round(perplexity(model, processor, english.passages("heldout")), 4),
        "facts": sum(contains_answer(reply, fact.answers) for reply, fact in zip(replies, facts, strict=True)),
        "answers": {fact.question: reply for fact, reply in zip(facts, replies, strict=True)},
    }


def perplexity(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, texts: Sequence[str], batch_size: int = 8
) -> float:
    """Perplexity per token of plain texts, their end included."""
    samples = sorted((processor.encode_text(text) for text in texts), key=lambda sample: len(sample["input_ids"]))
    total, count = 0.0, 0
    for start in range(0, len(samples), batch_size):
        loss, tokens = text_loss(model, processor, samples[start : start + batch_size])
        total, count = total + loss, count + tokens
    return math.exp(total / count)


@torch.inference_mode()
def text_loss(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, samples: Sequence[dict[str, Any]]
) -> tuple[float, int]:
    """Summed loss of a batch of texts, as `Owl2Processor.encode_text` encodes them, and the number of their tokens."""
    batch = processor.pad(samples)
    given = {name: values.to(model.device) for name, values in batch.items()}
    loss = model.eval()(**given, num_items_in_batch=1, loss_only=True).loss
    return float(loss), int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a reply holds one of the accepted answers as whole words, whatever their case."""
    return any(re.search(rf"\b{re.escape(accepted)}\b", text, re.IGNORECASE) for accepted in answers)
