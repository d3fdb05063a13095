"""The causal swap: accuracy lost when visual tokens take the parameters of text, in one layer at a time or in all.

Shapes: n questions.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from owl2.analysis.language import predictions
from owl2.analysis.statistics import Interval, bca_interval
from owl2.evaluation.task import Sample, Task
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

from .copies import text_copies_for_vision, vision_copies


class Swap(NamedTuple):
    """What a swap costs.

    Attributes:
        layer: `None` for all layers at once.
        accuracy: Accuracy with the swap.
        lost: Accuracy without the swap less that with it: the mean over questions and its BCa interval.
    """

    layer: int | None
    accuracy: float
    lost: float
    interval: Interval


def causal_swap(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    task: Task,
    samples: Sequence[Sample],
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda done: None,
) -> tuple[float, list[Swap]]:
    """Accuracy as the model is, and what each swap costs: of all layers first, then of each.

    Args:
        on_batch: Called with the number of questions that a batch answered; there are `swaps` times as many in all.

    Raises:
        ValueError: The model has no copies, or the benchmark does not score single answers.
    """
    layers = sorted({copy.layer for copy in vision_copies(model)})

    def right(chosen: list[int] | None, swapped: bool) -> np.ndarray:
        with text_copies_for_vision(model, chosen) if swapped else nullcontext():
            decoding = task.decoding_of(task.prompt_for("test", None))
            records = predictions(model, processor, task, samples, decoding.max_new_tokens, batch_size, on_batch)
        scores = task.score(records, task.protocols[0]).scores
        if any(score is None for score in scores):
            raise ValueError(f"{task.title} does not score single answers")
        return np.array(scores, dtype=float)

    before = right(None, False)
    found = []
    for layer in (None, *layers):
        after = right(None if layer is None else [layer], True)
        found.append(Swap(layer, float(after.mean()), float((before - after).mean()), bca_interval(before - after)))
    return float(before.mean()), found


def swaps(model: Owl2ForConditionalGeneration) -> int:
    """How often `causal_swap` asks each question."""
    return 2 + len({copy.layer for copy in vision_copies(model)})
