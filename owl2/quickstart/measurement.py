"""The quickstart's measurements beside language: answers without images, accuracy by kind."""

from collections.abc import Sequence
from typing import Any

from owl2.analysis.language import answer
from owl2.data.sources import easy_vqa
from owl2.evaluation.task import Sample
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor


def blind_answers(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, questions: Sequence[str], batch_size: int
) -> dict[str, str]:
    """The answer to each question without any image."""
    unique = list(dict.fromkeys(questions))
    samples = [Sample(question, question, None) for question in unique]
    return dict(zip(unique, answer(model, processor, samples, batch_size=batch_size), strict=True))


def accuracy_by_kind(gold: Sequence[str], replies: Sequence[str]) -> dict[str, float]:
    """Accuracy on questions whose answer is yes or no, a shape, or a colour."""
    kinds = {"yes or no": ("yes", "no"), "shape": easy_vqa.SHAPES, "color": easy_vqa.COLORS}
    return {
        kind: share(reply == right for right, reply in zip(gold, replies, strict=True) if right in words)
        for kind, words in kinds.items()
    }


def share(flags: Any) -> float:
    """The share of true flags, to four digits."""
    found = list(flags)
    return round(sum(found) / len(found), 4)
