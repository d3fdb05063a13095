"""What stages of training do to text: perplexity of a fixed corpus, and questions that need no picture.

A style of text that a stage learns moves the perplexity of another one: read both numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from owl2.analysis.language import answer, contains_answer, text_loss
from owl2.analysis.statistics import LEVEL, RESAMPLES, Interval
from owl2.data.sources.english import Fact
from owl2.evaluation.task import Sample
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

_ANSWER_TOKENS = 24


class TextAbility(NamedTuple):
    """What a model knows of text.

    Attributes:
        perplexity: Per token of the corpus, with a percentile interval over texts.
        accuracy: Share of the questions whose answer holds an accepted one, with an interval over questions.
    """

    perplexity: float
    perplexity_interval: Interval
    accuracy: float
    accuracy_interval: Interval


def text_ability(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    corpus: Sequence[str],
    questions: Sequence[Fact],
    batch_size: int = 64,
    on_done: Callable[[int], None] = lambda done: None,
) -> TextAbility:
    """Measures what a model knows of text.

    Args:
        on_done: Called with the number of texts or questions that are done.
    """
    losses = np.empty((len(corpus), 2))
    for number, text in enumerate(corpus):
        losses[number] = text_loss(model, processor, [processor.encode_text(text)])
        on_done(1)
    samples = [Sample(each.question, each.question, None) for each in questions]
    replies = answer(model, processor, samples, _ANSWER_TOKENS, batch_size, on_done)
    right = np.array(
        [contains_answer(reply, each.answers) for reply, each in zip(replies, questions, strict=True)], dtype=float
    )
    return TextAbility(
        _perplexity(losses),
        _percentile(losses, _perplexity),
        float(right.mean()),
        _percentile(right, lambda values: float(values.mean())),
    )


def _perplexity(losses: np.ndarray) -> float:
    """Perplexity from the summed losses and the numbers of tokens of texts, [texts, 2]."""
    return math.exp(losses[:, 0].sum() / losses[:, 1].sum())


def _percentile(values: np.ndarray, measure: Callable[[np.ndarray], float], seed: int = 0) -> Interval:
    """Percentile bootstrap interval over the rows."""
    generator = np.random.default_rng(seed)
    found = [measure(values[generator.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
