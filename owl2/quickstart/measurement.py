"""What the quickstart measures: answers with and without images, perplexity of English, facts."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from owl2.data.sources import easy_vqa, english
from owl2.evaluation.inference.predictor import Predictor
from owl2.evaluation.task import Decoding, Sample
from owl2.evaluation.tasks.easy_vqa import TASK
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.owl2 import IGNORE_INDEX
from owl2.processing import Owl2Processor


def answer(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    samples: Sequence[Sample],
    max_new_tokens: int = TASK.decoding[""].max_new_tokens,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers to samples, in batches of like length.

    Args:
        on_batch: Called with the number of samples that a batch answered.
    """
    predictor = Predictor(model, processor, TASK, Decoding(max_new_tokens=max_new_tokens), TASK.suffix)
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index].prompt), samples[index].prompt))
    answers = [""] * len(samples)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        found = predictor.predict([predictor.prepare(samples[index]) for index in indices])
        for index, prediction in zip(indices, found, strict=True):
            answers[index] = prediction.answer
        on_batch(len(indices))
    return answers


def blind_answers(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, questions: Sequence[str], batch_size: int
) -> dict[str, str]:
    """The answer to each question without any image."""
    unique = list(dict.fromkeys(questions))
    samples = [Sample(question, question, None) for question in unique]
    return dict(zip(unique, answer(model, processor, samples, batch_size=batch_size), strict=True))


def language(model: Owl2ForConditionalGeneration, processor: Owl2Processor) -> dict[str, Any]:
    """Perplexity of held-out English, and the facts that the model knows."""
    facts = english.facts()
    replies = answer(model, processor, [Sample(each.question, each.question, None) for each in facts], 24)
    return {
        "perplexity": round(perplexity(model, processor, english.passages("heldout")), 4),
        "facts": sum(contains_answer(reply, fact.answers) for reply, fact in zip(replies, facts, strict=True)),
        "answers": {fact.question: reply for fact, reply in zip(facts, replies, strict=True)},
    }


@torch.inference_mode()
def perplexity(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, texts: Sequence[str], batch_size: int = 8
) -> float:
    """Perplexity per token of plain texts, their end included."""
    model.eval()
    samples = sorted((processor.encode_text(text) for text in texts), key=lambda sample: len(sample["input_ids"]))
    total, count = 0.0, 0
    for start in range(0, len(samples), batch_size):
        batch = processor.pad(samples[start : start + batch_size])
        total += float(model(**batch, num_items_in_batch=1, loss_only=True).loss)
        count += int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
    return math.exp(total / count)


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a reply holds one of the accepted answers as whole words, whatever their case."""
    return any(re.search(rf"\b{re.escape(accepted)}\b", text, re.IGNORECASE) for accepted in answers)


def accuracy_by_kind(gold: Sequence[str], replies: Sequence[str]) -> dict[str, float]:
    """Accuracy on questions whose answer is yes or no, a shape, or a colour."""
    kinds = {"yes or no": ("yes", "no"), "shape": easy_vqa.SHAPES, "color": easy_vqa.COLORS}
    return {
        kind: share(reply == right for right, reply in zip(gold, replies, strict=True) if right in words)
        for kind, words in kinds.items()
    }


def share(flags: Any) -> float:
    """Share of the flags that are true, to four digits."""
    found = list(flags)
    return round(sum(found) / len(found), 4)
